"""A stand-in for the Hugging Face Hub: the few answers that its client needs to make, fill and read repositories."""

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_let_me_write"


class Hub(ThreadingHTTPServer):
    """Repositories by name, each a dict of branches, each a dict of files; `private` are read with the token alone."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.repos, self.private, self.asked = {}, set(), []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


def sha(content):
    return hashlib.sha1(content).hexdigest()


def commit_of(files):
    return sha(json.dumps({k: sha(v) for k, v in sorted(files.items())}).encode())


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_HEAD(self):
        self.answer()

    def answer(self):
        size = int(self.headers.get("Content-Length") or 0)
        body, path = self.rfile.read(size), unquote(urlsplit(self.path).path)
        self.server.asked.append((self.command, path))
        for pattern, handle in ROUTES:
            if found := re.fullmatch(pattern, path):
                handle(self, body, *found.groups())
                return
        self.say({"error": f"no such place {path}"}, 404)

    @property
    def known(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def say(self, content, status=200, head=()):
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in dict(head).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(text)

    def missing(self, code):
        status = 401 if code == "RepoNotFound" else 404
        head = {"X-Error-Code": code, "X-Error-Message": code}
        self.say({"error": code}, status, head)

    def files(self, repo, revision):
        """The files of a revision; `None` once it was said that there are none."""
        branches = self.server.repos.get(repo)
        if branches is None or (repo in self.server.private and not self.known):
            return self.missing("RepoNotFound")
        by_commit = {commit_of(files): files for files in branches.values()}
        found = branches.get(revision, by_commit.get(revision))
        return self.missing("RevisionNotFound") if found is None else found

    def create(self, body):
        asked = json.loads(body)
        repo = "/".join(filter(None, (asked.get("organization"), asked["name"])))
        if not self.known:
            return self.say({"error": "Invalid username or password."}, 401)
        there = repo in self.server.repos
        self.server.repos.setdefault(repo, {"main": {}})
        if asked.get("private") or asked.get("visibility") == "private":
            self.server.private.add(repo)
        url = f"{self.server.url}/{repo}"
        return self.say({"url": url, "name": repo, "id": repo}, 409 if there else 200)

    def branch(self, body, repo, name):
        there = name in self.server.repos[repo]
        self.server.repos[repo].setdefault(name, {})
        self.say({}, 409 if there else 201)

    def preupload(self, body, repo, revision):
        files = [
            {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
            for f in json.loads(body)["files"]
        ]
        self.say({"files": files})

    def commit(self, body, repo, revision):
        if not self.known:
            return self.say({"error": "Forbidden"}, 403)
        files = self.server.repos[repo][revision]
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "deletedFile":
                del files[value["path"]]
        oid = commit_of(files)
        url = f"{self.server.url}/{repo}/commit/{oid}"
        return self.say({"commitUrl": url, "commitOid": oid, "success": True})

    def info(self, body, repo, revision="main"):
        files = self.files(repo, revision)
        if files is not None:
            names = [{"rfilename": name} for name in files]
            self.say({"id": repo, "sha": commit_of(files), "siblings": names})

    def tree(self, body, repo, revision):
        files = self.files(repo, revision)
        if files is not None:
            rows = [
                {"type": "file", "path": k, "size": len(v), "oid": sha(v)}
                for k, v in files.items()
            ]
            self.say(rows)

    def resolve(self, body, repo, revision, path):
        files = self.files(repo, revision)
        if files is None:
            return
        if path not in files:
            self.missing("EntryNotFound")
            return
        head = {"ETag": f'"{sha(files[path])}"', "X-Repo-Commit": commit_of(files)}
        self.say(files[path], head=head)


REPO = r"((?:[\w.-]+/)?[\w.-]+)"
ROUTES = [
    ("/api/validate-yaml", lambda self, body: self.say({"errors": [], "warnings": []})),
    ("/api/repos/create", Handler.create),
    (rf"/api/models/{REPO}/branch/([^/]+)", Handler.branch),
    (rf"/api/models/{REPO}/preupload/([^/]+)", Handler.preupload),
    (rf"/api/models/{REPO}/commit/([^/]+)", Handler.commit),
    (rf"/api/models/{REPO}/revision/([^/]+)", Handler.info),
    (rf"/api/models/{REPO}/tree/([^/]+)", Handler.tree),
    (rf"/api/models/{REPO}", Handler.info),
    (rf"/{REPO}/resolve/([^/]+)/(.+)", Handler.resolve),
]
