"""Where patients are computed on: processes that can do nothing else (docs/adr/0014-sandboxed-worker.md).

The keeper (`gemel.client_node.flower.supernode`) has keys, ledger and network, and starts one nursery, a clean process with
everything imported. The nursery forks a worker for each study; it maps the study's data set, is shut in, and forks a child
for each task. A child computes, writes arrays into a pipe and ends.
"""
