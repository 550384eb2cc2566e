"""A stand-in for the hub: a server on this machine that speaks the few endpoints which reading and pushing a model need.

Commits are folders in memory: {repository: [(commit, {path: bytes}), ...]}; branches and tags name commits.
"""

import base64
import contextlib
import hashlib
import http.server
import json
import threading
import urllib.parse


class Hub:
  """The models of the stand-in, and what was asked of it.

  Attributes:
    models: repository -> commit -> path -> content.
    refs: repository -> branch -> commit.
    gated: repositories whose terms nobody has accepted.
    token: that may write; requests with another are refused.
    asked: (method, path) of every request.
    down: every request is answered by 503.
  """

  def __init__(self):
    self.models, self.refs, self.gated, self.private = {}, {}, set(), set()
    self.token, self.asked, self.down, self.uploads = "hf_secret", [], False, {}
    self.messages = []
    self.endpoint = ""

  def commit(self, name, files, branch="main"):
    """Adds a commit of these files ({path: bytes}) to a branch; its id."""
    facts = json.dumps([name, len(self.models.get(name, {})), sorted(files)])
    commit = hashlib.sha1(facts.encode()).hexdigest()
    self.models.setdefault(name, {})[commit] = dict(files)
    self.refs.setdefault(name, {})[branch] = commit
    return commit

  def files(self, name, branch="main"):
    return self.models[name][self.refs[name][branch]]

  def resolve(self, name, revision):
    """The commit of a branch or a commit; None where there is none."""
    revision = urllib.parse.unquote(revision)
    found = self.refs.get(name, {}).get(revision, revision)
    return found if found in self.models.get(name, {}) else None


def folder_files(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


class Handler(http.server.BaseHTTPRequestHandler):
  hub: Hub

  def log_message(self, *_):
    pass

  def answer(self, body, status=200, **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    self.send_response(status)
    for name, value in headers.items():
      self.send_header(name.replace("_", "-"), value)
    self.send_header("Content-Length", str(len(data)))
    self.end_headers()
    if self.command != "HEAD":
      self.wfile.write(data)

  def refuse(self, status, code, text=""):
    self.answer({"error": text or code}, status, X_Error_Code=code, X_Error_Message=text or code)

  def body(self):
    return self.rfile.read(int(self.headers.get("Content-Length") or 0))

  def do_HEAD(self):
    self.do_GET()

  def do_GET(self):
    hub, path = self.hub, urllib.parse.urlsplit(self.path).path
    hub.asked.append((self.command, path))
    if hub.down:
      return self.refuse(503, "Down")
    words = path.strip("/").split("/")
    if words[:2] == ["api", "models"]:
      name, rest = "/".join(words[2:4]), words[4:]
      kind, revision = (rest or ["revision"])[0], "/".join(rest[1:2]) or "main"
      file = None
    elif "resolve" in words:
      at = words.index("resolve")
      name, kind, revision, file = "/".join(words[:at]), "resolve", words[at + 1], "/".join(words[at + 2 :])
    else:
      return self.refuse(404, "NotFound")
    if name not in hub.models:
      return self.refuse(401, "RepoNotFound", "Invalid username or password.")
    if name in hub.gated:
      return self.refuse(403, "GatedRepo", "Access to this model is restricted")
    if kind == "refs":
      branches = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": c} for b, c in hub.refs[name].items()]
      return self.answer({"branches": branches, "tags": [], "converts": []})
    commit = hub.resolve(name, revision)
    if commit is None:
      return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {revision}")
    files = hub.models[name][commit]
    if kind == "revision":
      siblings = [{"rfilename": path} for path in files]
      return self.answer({"id": name, "modelId": name, "sha": commit, "private": False, "siblings": siblings})
    if kind == "tree":
      rows = [
        {"type": "file", "path": path, "size": len(data), "oid": hashlib.sha1(data).hexdigest()}
        for path, data in files.items()
      ]
      return self.answer(rows)
    if file not in files:
      return self.refuse(404, "EntryNotFound")
    data = files[file]
    headers = {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "X_Repo_Commit": commit, "Accept_Ranges": "bytes"}
    start = 0
    if (wanted := self.headers.get("Range", "")).startswith("bytes="):
      start = int(wanted.removeprefix("bytes=").partition("-")[0] or 0)
    if start:
      headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
    return self.answer(data[start:], 206 if start else 200, **headers)

  def do_POST(self):
    hub, path = self.hub, urllib.parse.urlsplit(self.path).path
    hub.asked.append((self.command, path))
    data = self.body()
    if self.headers.get("Authorization") != f"Bearer {hub.token}":
      return self.refuse(401, "Unauthorized", "Invalid credentials in Authorization header")
    words = path.strip("/").split("/")
    if path == "/api/validate-yaml":  # of a card's front matter
      return self.answer({"errors": [], "warnings": []})
    if path == "/api/repos/create":
      asked = json.loads(data)
      name = f"{asked.get('organization') or 'me'}/{asked['name']}"
      if asked.get("private") or asked.get("visibility") == "private":
        hub.private.add(name)
      if name in hub.models:
        return self.answer({"error": "exists", "url": f"{hub.endpoint}/{name}", "id": name}, 409)
      hub.commit(name, {})
      return self.answer({"url": f"{hub.endpoint}/{name}", "name": name, "id": name})
    if path.endswith("/info/lfs/objects/batch"):
      objects = []
      for wanted in json.loads(data)["objects"]:
        href = f"{hub.endpoint}/lfs/{wanted['oid']}"
        objects.append({**wanted, "actions": {"upload": {"href": href}}})
      return self.answer({"transfer": "basic", "objects": objects})
    name, kind, branch = "/".join(words[2:4]), words[4], urllib.parse.unquote("/".join(words[5:]) or "main")
    if kind == "branch":
      if branch in hub.refs[name]:
        return self.refuse(409, "RefExists")
      hub.refs[name][branch] = hub.refs[name]["main"]
      return self.answer({})
    if branch not in hub.refs[name]:
      return self.refuse(404, "RevisionNotFound", f"Invalid rev id: {branch}")
    if kind == "preupload":
      files = json.loads(data)["files"]
      mode = lambda file: "lfs" if file["path"].endswith(".safetensors") else "regular"  # noqa: E731
      return self.answer({"files": [{"path": f["path"], "uploadMode": mode(f), "shouldIgnore": False} for f in files]})
    if kind == "commit":
      files = dict(hub.files(name, branch))
      for line in map(json.loads, filter(None, data.splitlines())):
        value = line["value"]
        if line["key"] == "header":
          hub.messages.append(value["summary"])
        elif line["key"] == "file":
          files[value["path"]] = base64.b64decode(value["content"])
        elif line["key"] == "lfsFile":
          files[value["path"]] = hub.uploads[value["oid"]]
      commit = hub.commit(name, files, branch)
      url = f"{hub.endpoint}/{name}/commit/{commit}"
      return self.answer({"success": True, "commitOid": commit, "commitUrl": url, "hookOutput": ""})
    return self.refuse(404, "NotFound")

  def do_PUT(self):
    data = self.body()
    self.hub.asked.append((self.command, self.path))
    assert self.path == f"/lfs/{hashlib.sha256(data).hexdigest()}", "not what was said"
    self.hub.uploads[self.path.rpartition("/")[2]] = data
    self.answer({})


@contextlib.contextmanager
def serving():
  """A hub on a port of this machine while the block runs."""
  hub = Hub()
  server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
  hub.endpoint = f"http://127.0.0.1:{server.server_port}"
  thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
  thread.start()
  try:
    yield hub
  finally:
    server.shutdown()
    server.server_close()
    thread.join()
