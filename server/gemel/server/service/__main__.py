"""`python -m gemel.server.service HOME --port N`: the service of a coordinator's home, on loopback, behind nginx."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from gemel.server.service.serving import serve


def main() -> None:
    """Read the arguments and serve until asked to end."""
    parser = argparse.ArgumentParser(prog="python -m gemel.server.service", description=__doc__)
    parser.add_argument("home", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--superlink", default="", metavar="HOST:PORT", help="else of HOME/federation.json")
    parser.add_argument(
        "--public-url", default="", metavar="URL", help="where people reach it, through nginx"
    )
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    serve(
        given.home,
        host=given.host,
        port=given.port,
        superlink=given.superlink,
        public_url=given.public_url,
    )


if __name__ == "__main__":
    main()
