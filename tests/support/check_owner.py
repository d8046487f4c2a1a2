"""A process that uses a check's servers, to be interrupted or killed: ``python -m tests.support.check_owner KEY=VALUE…``.

Prints a line of JSON about its first server once there is a database and a role on it, then waits for its end. SIGTERM is
what it is for a command.
"""

from __future__ import annotations

import json
import signal
import sys
import time

from tests.support.scratch import connected
from zdmigrate.cli import runtime
from zdmigrate.compat.scratch import roles
from zdmigrate.compat.scratch.servers import open_servers


def main(arguments: list[str]) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background processes inherit that it is ignored
    given = dict(argument.split("=", 1) for argument in arguments)
    images = given["images"].split(",") if "images" in given else ()
    with runtime._terminable(), open_servers([given["kind"]], images=images, url=given.get("url")) as servers:
        server = servers[0]
        server.create_database("start")
        with connected(server, "start") as connection:
            connection.execute("CREATE TABLE t (id int)")
            roles.application_role(connection)
        print(json.dumps({"conninfo": server.conninfo("start"), "label": server.label}), flush=True)
        time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1:])
