"""Every touch of flwr 1.41.0's internals at a node. A contract test fails loudly when they move.

A node speaks Flower's Fleet API itself instead of running Flower's SuperNode: activate, heartbeat, pull, push. What the
SuperNode adds is what a hospital must not have: it fetches the bundle that a run submits, starts a process for each
message and hands it work through a second API of its own, in fixed sleeps of 0.5 to 3 s. Here no bundle is ever asked for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TypeVar

import httpx
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import FlowerError
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectPushError,
    pull_and_inflate_object_from_tree,
    push_objects,
)
from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supercore.task_identity import TaskIdentity
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from gemel.core.pki import load_transport_key

FLWR_VERSION = "1.41.0"
# A node that was killed is missed, and its messages answered with an error, after two of these.
HEARTBEAT_S = 10
WAIT_HEADER, SEEN_HEADER = "gemel-wait", "gemel-seen"
LONGEST_PAUSE_S = 5.0
# Flower's 30 s are short for a large model through a busy coordinator.
TIMEOUT_S = 120.0
_PULL_PATIENCE_S = 120.0

Result = TypeVar("Result")


class Unreachable(Exception):
    """The SuperLink cannot be reached, or is not able to answer now. Worth trying again."""


class Refused(Exception):
    """The SuperLink answers, and does not accept this node: HTTP status, Flower's code (0: none).

    401: the key is unknown, or revoked, or the clocks differ by more than Flower's five minutes.
    """

    def __init__(self, status: int, code: int) -> None:
        super().__init__(f"HTTP {status}, Flower's code {code}")
        self.status, self.code = status, code


class Incomplete(Exception):
    """A message came without what it holds; `head` says whom to tell."""

    def __init__(self, head: Message) -> None:
        super().__init__("a message came without its objects")
        self.head = head


class _Waiting:
    """Asks the SuperLink to hold a pull until there is something, and notes what its clock says."""

    def __init__(self) -> None:
        self.wait_s = 0.0
        self.seen = ""
        self.held = False
        self.clock_ahead_s = 0.0

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        pulls = context.rpc_method == "/flwr.proto.Fleet/PullMessages"
        if pulls and self.seen and self.wait_s:
            context.request.headers[WAIT_HEADER] = f"{self.wait_s:g}"
            context.request.headers[SEEN_HEADER] = self.seen
        response = call_next(context)
        if pulls:
            self.seen = response.headers.get(SEEN_HEADER, "")
            self.held = bool(self.seen)
        if told := response.headers.get("date"):
            self.clock_ahead_s = time.time() - parsedate_to_datetime(told).timestamp()
        return response


class Fleet:
    """A node's side of Flower's Fleet API. Every call raises Unreachable or Refused.

    Args:
        address: host:port of the SuperLink, or of the proxy before it.
        ca_certificate: The federation's CA.
        key: The node's transport key (PEM, P-384).
    """

    def __init__(self, address: str, *, ca_certificate: Path, key: Path) -> None:
        private = load_transport_key(key)
        signer = NodeAuthHttpInterceptor(private, private.public_key())
        self._public_key = signer._public_key_bytes
        self._waiting = _Waiting()
        self._client = FleetHttpClient.from_server_address(
            address,
            insecure=False,
            root_certificates=ca_certificate.read_bytes(),
            interceptors=[RuntimeVersionHttpInterceptor(component_name="SuperNode"), signer, self._waiting],
        )
        self._client._client.timeout = httpx.Timeout(TIMEOUT_S, connect=10.0)
        self._node = Node()
        self._stopping = threading.Event()

    @property
    def clock_ahead_s(self) -> float:
        """How far this machine's clock is ahead of the coordinator's, by its last answer; whole seconds are told."""
        return self._waiting.clock_ahead_s

    @property
    def wakes(self) -> bool:
        """Whether the SuperLink holds a pull until there is something; else the caller has to sleep between pulls."""
        return self._waiting.held

    def activate(self, *, earlier: int) -> int:
        """Come online; the node's id.

        `earlier`: this node's id if it is known. Flower takes a node whose process died for online until its heartbeats
        are missed, and refuses it meanwhile: the old session is ended first.
        """
        if earlier:
            with _suppressed():
                self._call(lambda: self._client.DeactivateNode(DeactivateNodeRequest(node_id=earlier)))
        request = ActivateNodeRequest(public_key=self._public_key, heartbeat_interval=HEARTBEAT_S)
        self._node = Node(node_id=self._call(lambda: self._client.ActivateNode(request)).node_id)
        return int(self._node.node_id)

    def deactivate(self) -> None:
        """Go offline, so that the coordinator need not wait for missed heartbeats."""
        self._call(lambda: self._client.DeactivateNode(DeactivateNodeRequest(node_id=self._node.node_id)))

    def beat(self) -> bool:
        """Send one heartbeat; False when the SuperLink no longer knows this node."""
        request = SendNodeHeartbeatRequest(node=self._node, heartbeat_interval=HEARTBEAT_S)
        return bool(self._call(lambda: self._client.SendNodeHeartbeat(request)).success)

    def pull(self, *, wait_s: float) -> Message | None:
        """The next message with all it holds, or None when none comes within `wait_s` (held by the SuperLink).

        Raises Incomplete as well. Once a message was announced, a broken connection is waited for.
        """
        self._waiting.wait_s = wait_s
        response = self._call(lambda: self._client.PullMessages(PullMessagesRequest(node=self._node)))
        if not response.messages_list:
            return None
        self._waiting.seen = ""  # there may be another
        head = message_from_proto(response.messages_list[0])
        run, client = head.metadata.run_id, self._client
        confirm = make_confirm_message_received_fn_protobuf(
            lambda request: self._patiently(lambda: client.ConfirmMessageReceived(request)), self._node, run
        )
        fetch = make_pull_object_fn_protobuf(
            lambda request: self._patiently(lambda: client.PullObject(request)), self._node, run
        )
        try:
            message = pull_and_inflate_object_from_tree(
                response.message_object_trees[0],
                fetch,
                confirm,
                return_type=Message,
                max_time=_PULL_PATIENCE_S,
                # A message is seen before what it holds has been stored: the first try often comes too early.
                initial_backoff=0.02,
                backoff_cap=0.2,
            )
        except (ObjectPullError, ValueError, TypeError) as error:
            raise Incomplete(head) from error
        message.metadata.__dict__["_message_id"] = head.metadata.message_id
        return message

    def push(self, reply: Message, *, seconds: float) -> None:
        """Send a reply, which took so long to compute; a broken connection is waited for. The same reply counts once."""
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(reply))],
                message_object_trees=[get_object_tree(reply)],
                clientapp_runtime_list=[seconds],
            )
            objects = get_all_nested_objects(reply)
            self._patiently(lambda: self._push(request, reply, objects))

    def _push(
        self, request: PushMessagesRequest, reply: Message, objects: dict[str, InflatableObject]
    ) -> None:
        answer = self._client.PushMessages(request)
        first = bool(answer.objects_to_push)
        # A message that is stored already, by a try whose answer was lost, has nothing to push by Flower's word, though what
        # it holds may be missing still: that is taken without a session's name, and nothing else.
        push = make_push_object_fn_protobuf(
            self._client.PushObject, self._node, reply.metadata.run_id, answer.session_id if first else ""
        )

        def push_missing(object_id: str, content: bytes) -> None:
            with suppress(ObjectPushError):
                push(object_id, content)

        push_objects(
            objects,
            push if first else push_missing,
            object_ids_to_push=set(answer.objects_to_push) if first else None,
            keep_objects=True,
        )

    def stop(self) -> None:
        """End every wait for a broken connection: the caller of it gets Unreachable. From another thread."""
        self._stopping.set()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def _patiently(self, call: Callable[[], Result]) -> Result:
        """Try again until it succeeds, is refused, or `stop` is called."""
        pause_s = 0.1
        while True:
            try:
                return self._call(call)
            except Unreachable:
                if self._stopping.wait(pause_s):
                    raise
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _call(self, call: Callable[[], Result]) -> Result:
        try:
            return call()
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            if status in (408, 425, 429) or status >= 500:
                raise Unreachable(f"HTTP {status}") from error
            told = FlowerError.from_json(error.response.text)
            raise Refused(status, int(told.code) if told is not None else 0) from error
        except (httpx.HTTPError, OSError, ObjectPushError) as error:
            raise Unreachable(type(error).__name__) from error


def identify(message: Message, node_id: int) -> Context:
    """What Flower's reply constructor and a ClientApp want to know of where they run. No state is kept between messages."""
    run = message.metadata.run_id
    TaskIdentity.task_id = TaskIdentity.run_id = run
    TaskIdentity.node_id = node_id
    return Context(run_id=run, node_id=node_id, node_config={}, state=RecordDict(), run_config={})


def failed(message: Message, node_id: int) -> Message:
    """An error of Flower's own in reply, which tells nothing; the coordinator takes the node for away and asks again."""
    identify(message, node_id)
    return Message(Error(code=ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason="GEM404"), reply_to=message)


@contextmanager
def _suppressed() -> Iterator[None]:
    try:
        yield
    except (Refused, Unreachable):
        return
