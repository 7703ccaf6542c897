"""A small process that stands where a service would: python -m tests.integration.cli.stand_in PORT OPTIONS

It answers /readyz on PORT: 200, or 503 while `--ready-file` names a file that is not there. `--deaf` ignores SIGTERM.
`--child` starts a grandchild that would sleep on for an hour; `--runaway` one that leaves the process group as well.
"""

import argparse
import signal
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("port", type=int)
    parser.add_argument("--ready-file", type=Path)
    parser.add_argument("--deaf", action="store_true")
    parser.add_argument("--child", action="store_true")
    parser.add_argument("--runaway", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.deaf else lambda *_: sys.exit(0))
    if options.child:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    if options.runaway:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            ready = options.ready_file is None or options.ready_file.exists()
            self.send_response(200 if ready else 503)
            self.end_headers()
            self.wfile.write(b"{}" if ready else b"no ready file")

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", options.port), Answer)
    sys.stderr.write("stand-in listens\n")
    server.serve_forever()


if __name__ == "__main__":
    main()
