"""A small S3-compatible HTTP server for tests: the verbs the artifact store uses, over real HTTP, objects in memory.

It knows one bucket and one access key, checks the payload digest that a client declares as S3 does, and can be told
to fail. Signatures are not verified: the client library makes them, not Relevo.
"""

import hashlib
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

BUCKET = "relevo"
ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key"


class S3Server(ThreadingHTTPServer):
    """Objects by key, and the faults to inject."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.uploads: dict[str, dict[int, bytes]] = {}
        self.requests: list[tuple[str, str]] = []
        self.failures: list[int] = []
        """Statuses that the next requests are answered with."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def environment(self) -> dict[str, str]:
        """The AWS_* variables that point a client here."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": ACCESS_KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
            "AWS_REGION": "us-east-1",
        }


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """Run the server on a free loopback port."""
    server = S3Server()
    thread = threading.Thread(target=server.serve_forever, args=[0.01], name="s3", daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: S3Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._handle(self._get)

    def do_HEAD(self) -> None:
        self._handle(self._get)

    def do_PUT(self) -> None:
        self._handle(self._put)

    def do_POST(self) -> None:
        self._handle(self._post)

    def do_DELETE(self) -> None:
        self._handle(self._delete)

    def _handle(self, act) -> None:
        parts = urlsplit(self.path)
        bucket, _, self.key = unquote(parts.path).lstrip("/").partition("/")
        self.query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append((self.command, self.path))
        declared = self.headers.get("x-amz-content-sha256", "UNSIGNED-PAYLOAD")
        if self.server.failures:
            self._error(self.server.failures.pop(0), "InternalError")
        elif f"Credential={ACCESS_KEY}/" not in self.headers.get("Authorization", ""):
            self._error(403, "InvalidAccessKeyId")
        elif bucket != BUCKET:
            self._error(404, "NoSuchBucket")
        elif declared != "UNSIGNED-PAYLOAD" and declared != hashlib.sha256(self.body).hexdigest():
            self._error(400, "XAmzContentSHA256Mismatch")
        else:
            act()

    def _get(self) -> None:
        if not self.key and self.query.get("list-type") == "2":
            self._list(self.query.get("prefix", ""))
        elif self.key in self.server.objects:
            self._answer(200, self.server.objects[self.key], {"ETag": '"0"', "Last-Modified": self.date_time_string()})
        else:
            self._error(404, "NoSuchKey")

    def _list(self, prefix: str) -> None:
        found = "".join(
            f"<Contents><Key>{escape(key)}</Key><Size>{len(data)}</Size><ETag>0</ETag>"
            "<LastModified>2013-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, data in sorted(self.server.objects.items())
            if key.startswith(prefix)
        )
        self._xml(f"<ListBucketResult><IsTruncated>false</IsTruncated>{found}</ListBucketResult>")

    def _put(self) -> None:
        if "uploadId" in self.query:
            self.server.uploads[self.query["uploadId"]][int(self.query["partNumber"])] = self.body
        else:
            self.server.objects[self.key] = self.body
        self._answer(200, b"", {"ETag": '"0"'})

    def _post(self) -> None:
        if "uploads" in self.query:
            upload = uuid.uuid4().hex
            self.server.uploads[upload] = {}
            self._xml(f"<InitiateMultipartUploadResult><UploadId>{upload}</UploadId></InitiateMultipartUploadResult>")
        elif "uploadId" in self.query:
            parts = self.server.uploads.pop(self.query["uploadId"])
            self.server.objects[self.key] = b"".join(parts[number] for number in sorted(parts))
            self._xml("<CompleteMultipartUploadResult><ETag>0</ETag></CompleteMultipartUploadResult>")
        elif "delete" in self.query:
            keys = [
                element.text or ""
                for element in ElementTree.fromstring(self.body).iter()
                if element.tag.endswith("Key")
            ]
            for key in keys:
                self.server.objects.pop(key, None)
            deleted = "".join(f"<Deleted><Key>{escape(key)}</Key></Deleted>" for key in keys)
            self._xml(f"<DeleteResult>{deleted}</DeleteResult>")
        else:
            self._error(501, "NotImplemented")

    def _delete(self) -> None:
        if "uploadId" in self.query:
            self.server.uploads.pop(self.query["uploadId"], None)
        else:
            self.server.objects.pop(self.key, None)
        self._answer(204, b"", {})

    def _xml(self, text: str) -> None:
        self._answer(200, text.encode(), {"Content-Type": "application/xml"})

    def _error(self, status: int, code: str) -> None:
        self._answer(status, f"<Error><Code>{code}</Code></Error>".encode(), {"Content-Type": "application/xml"})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name it has in the base class
        """Say nothing."""
