"""The Docker image: what its file says, and the image itself where there is one (`make image-test`).

Only the standard library, so that it runs where nothing is set up.
"""

import json
import re
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest
import urllib.error
import urllib.request
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

import image  # noqa: E402

DOCKERFILE = (ROOT / "Dockerfile").read_text()
LAB = "/home/stemm/lab"
PYTHON = "/home/stemm/.stemm/venv/bin/python"
# One cell through the REST and websocket API of the server, from inside: it works without a network, too.
CELL = """
import asyncio, json, sys, uuid
from urllib.request import Request, urlopen
from tornado.websocket import websocket_connect
token, code = sys.argv[1:]
async def main():
    request = Request("http://127.0.0.1:8888/api/kernels", b'{"name": "stemm"}', {"Authorization": f"token {token}"})
    kernel = json.load(urlopen(request))["id"]
    socket = await websocket_connect(f"ws://127.0.0.1:8888/api/kernels/{kernel}/channels?token={token}")
    header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "session": "1", "username": "", "version": "5.3"}
    content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False}
    await socket.write_message(json.dumps({"header": header, "parent_header": {}, "metadata": {}, "content": content, "channel": "shell"}))
    while True:
        message = json.loads(await socket.read_message())
        if message["msg_type"] in ("execute_result", "error"):
            return print(message["content"].get("data", message["content"]))
asyncio.run(asyncio.wait_for(main(), 300))
"""
# What a hub sets for the server of a user whom it starts, and as much of a hub as that server asks for.
HUB = """
import json, os, subprocess, threading, time
from http.server import BaseHTTPRequestHandler, HTTPServer
from urllib.request import Request, urlopen
import jupyterhub
class Hub(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", jupyterhub.__version__)
        self.end_headers()
        self.wfile.write(json.dumps({"version": jupyterhub.__version__}).encode())
    do_POST = do_GET
    def log_message(self, *_): pass
threading.Thread(target=HTTPServer(("127.0.0.1", 8081), Hub).serve_forever, daemon=True).start()
said = {"API_TOKEN": "x", "CLIENT_ID": "jupyterhub-user-ada", "USER": "ada", "BASE_URL": "/", "HOST": "", "SERVER_NAME": "",
        "OAUTH_CALLBACK_URL": "/user/ada/oauth_callback", "API_URL": "http://127.0.0.1:8081/hub/api",
        "SERVICE_PREFIX": "/user/ada/", "SERVICE_URL": "http://127.0.0.1:8888/user/ada/"}
server = subprocess.Popen(["jupyterhub-singleuser", "--notebook-dir=/home/stemm/lab/notebooks"],
                          env=os.environ | {f"JUPYTERHUB_{name}": value for name, value in said.items()})
for _ in range(120):
    try:
        print("version", json.load(urlopen("http://127.0.0.1:8888/user/ada/api"))["version"])
        break
    except OSError:
        time.sleep(0.5)
server.terminate()
"""
SHOWS_42 = "use stemm::prelude::*;\nTensor::from_slice(&[40i64, 2]).sum(Kind::Int64).int64_value(&[])"


class TheFile(unittest.TestCase):
    def test_its_steps_are_all_of_the_set_ups(self):
        said = [name for names in re.findall(r"python3 scripts/setup\.py ([a-z ]+)", DOCKERFILE) for name in names.split()]
        steps = re.search(r"^STEPS = \{(.*)\}", (ROOT / "scripts" / "setup.py").read_text(), re.MULTILINE).group(1)
        self.assertEqual(sorted(said), sorted(re.findall(r'"(\w+)":', steps)))

    def test_its_rust_is_the_checkouts(self):
        channel = re.search(r'channel = "(.+)"', (ROOT / "rust-toolchain.toml").read_text()).group(1)
        self.assertEqual(set(re.findall(r"\d+\.\d+\.\d+(?=-slim|\n)", DOCKERFILE.split("LABEL")[0])), {channel})

    def test_what_it_copies_is_there_and_gets_past_dockerignore(self):
        named = [path for line in re.findall(r"^COPY --chown=\S+ (.+)", DOCKERFILE, re.MULTILINE) for path in line.split()[:-1]]
        let_in = re.findall(r"^!(.+)", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
        for path in named:
            self.assertTrue((ROOT / path).exists(), path)
            self.assertTrue(any(entry.split("/")[0].rstrip("*") == path.split("/")[0] for entry in let_in), path)

    def test_its_version_is_the_crates(self):
        version = re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.MULTILINE).group(1)
        self.assertIn(f'image.version="{version}"', DOCKERFILE)


PLAN = """
results = "results"
data = [{ set = { Blobs = 0 } }]
networks = [{ Mlp = [16, 8, 4] }]
methods = ["Naive", { WeightMatching = {} }]
counts = [2]
groups = 1
[trainer]
epochs = 2
"""


def run(*arguments: str, **keywords) -> subprocess.CompletedProcess:
    return subprocess.run([ENGINE, *arguments], capture_output=True, text=True, errors="replace", **keywords)


ENGINE = image.engine("docker", "podman")
HAS_IMAGE = ENGINE is not None and run("image", "inspect", image.NAME).returncode == 0


@unittest.skipUnless(HAS_IMAGE, "no image, or nothing that runs it: make image-test")
class TheImage(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.work = Path(tempfile.mkdtemp(prefix="stemm-work-"))
        cls.work.chmod(0o777)
        cls.mount = ["--volume", f"{cls.work}:{LAB}/notebooks/work"]

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.work, ignore_errors=True)

    def test_it_reproduces_the_claims_without_a_network_on_a_read_only_disk(self):
        result = run("run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", *self.mount, image.NAME, "make", "reproduce")
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)
        self.assertRegex(result.stdout, r"ste-mm +3 +0\.3")
        self.assertEqual(result.stdout.count(" holds\n"), 6, result.stdout)

    def test_it_runs_as_a_user_without_privileges_and_as_any_other(self):
        for options, user in [([], "1000"), (["--user", "1234"], "1234"), (["--user", "1234:1234"], "1234")]:
            with self.subTest(user=options):
                result = run("run", "--rm", "--network", "none", *options, *self.mount, image.NAME, "sh", "-c",
                             f"id -u && python3 scripts/run.py python scripts/one_cell.py '{SHOWS_42}'")
                self.assertEqual(result.stdout.split()[0], user, result.stderr)
                self.assertEqual(result.stdout.split()[-1], "42", result.stdout + result.stderr)

    def test_a_work_folder_that_cannot_be_written_to_is_named(self):
        self.work.chmod(0o755)
        result = run("run", "--rm", "--user", "1234", *self.mount, image.NAME, "true")
        self.work.chmod(0o777)
        self.assertIn("nothing can be saved there", result.stderr)
        self.assertEqual(result.returncode, 0)

    def test_nothing_of_the_machine_that_built_it_is_inside(self):
        result = run("run", "--rm", image.NAME, "sh", "-c",
                     "cat /etc/pip.conf $CARGO_HOME/config.toml $CARGO_HOME/credentials.toml ~/.config/pip/pip.conf 2> /dev/null; true")
        self.assertEqual(result.stdout, "")
        said = json.loads(run("image", "inspect", image.NAME).stdout)[0]["Config"]["Env"]
        self.assertFalse([entry for entry in said if re.match(r"(?i)(pip_index|.*proxy|.*token|.*cert)", entry)], said)

    def test_a_hub_starts_it(self):
        result = run("run", "--rm", "--network", "none", image.NAME, "python3", "-c", HUB)
        self.assertRegex(result.stdout, r"version \d+\.", result.stderr[-3000:])

    @unittest.skipUnless(ENGINE == "podman", "podman alone runs pods without a cluster")
    def test_both_pods_of_a_job_for_kubernetes_do_their_share(self):
        claim = f"stemm-test-{uuid.uuid4().hex[:8]}"
        volume = ["--volume", f"{claim}:/work", "--network", "none"]
        stemm = ["python3", "scripts/run.py", "stemm"]
        try:
            # A volume belongs to root; for the rest podman does not know `fsGroup`, by which a cluster lets the image's user write.
            made = f"import os; os.chmod('/work', 0o777); open('/work/plan.toml', 'w').write({PLAN!r})"
            run("run", "--rm", *volume, "--user", "0", image.NAME, "python3", "-c", made)
            manifest = run("run", "--rm", image.NAME, *stemm, "kubernetes", "/work/plan.toml", "--image", f"localhost/{image.NAME}",
                           "--claim", claim, "--pods", "2").stdout
            template = textwrap.dedent(manifest.split("  template:\n")[1])
            for index in range(2):
                # What the cluster adds: a name, and which of the pods it is.
                variable = f'      env: [{{name: JOB_COMPLETION_INDEX, value: "{index}"}}]\n'
                pod = template.replace("metadata:\n", f"metadata:\n  name: {claim}-{index}\n").replace("      command:", f"{variable}      command:")
                played = run("kube", "play", "--network", "none", "-", input=f"apiVersion: v1\nkind: Pod\n{pod}")
                self.assertEqual(played.returncode, 0, played.stdout + played.stderr)
                code = run("wait", f"{claim}-{index}-stemm").stdout.strip()
                self.assertEqual(code, "0", run("logs", f"{claim}-{index}-stemm").stderr)
                status = run("run", "--rm", *volume, image.NAME, *stemm, "status", "/work/plan.toml")
                self.assertEqual(status.returncode, [4, 0][index], status.stdout + status.stderr)
        finally:
            run("pod", "rm", "--force", "--ignore", *(f"{claim}-{index}" for index in range(2)))
            run("volume", "rm", "--force", claim)

    def test_jupyterlab_asks_for_its_token_runs_cells_keeps_work_and_stops(self):
        name, token = f"stemm-test-{uuid.uuid4().hex[:8]}", uuid.uuid4().hex
        lab = ["make", "lab", f"LAB_OPTIONS=--ip=0.0.0.0 --port=8888 --no-browser --IdentityProvider.token={token}"]
        started = run("run", "--detach", "--name", name, "--publish", "127.0.0.1::8888", *self.mount, image.NAME, *lab)
        self.assertEqual(started.returncode, 0, started.stderr)
        try:
            address = "http://" + run("port", name, "8888").stdout.split()[-1]
            self.assertEqual(wait_for(f"{address}/api/contents"), 403)
            self.assertEqual(wait_for(f"{address}/api/contents?token={token}"), 200)
            cell = run("exec", name, PYTHON, "-c", CELL, token, SHOWS_42)
            self.assertIn("42", cell.stdout, cell.stderr)
            body = json.dumps({"type": "file", "format": "text", "content": "kept"}).encode()
            request = urllib.request.Request(f"{address}/api/contents/work/kept.txt?token={token}", body, method="PUT")
            urllib.request.urlopen(request).read()
            begun = time.monotonic()
            run("stop", "--time", "10", name)
            self.assertLess(time.monotonic() - begun, 10, "it had to be killed")
            self.assertEqual(run("start", name).returncode, 0)
            address = "http://" + run("port", name, "8888").stdout.split()[-1]
            self.assertEqual(wait_for(f"{address}/api/contents/work/kept.txt?token={token}"), 200)
            self.assertEqual((self.work / "kept.txt").read_text(), "kept")
            health = run("exec", name, *json.loads(re.search(r"CMD (\[\"python3.*\])", DOCKERFILE).group(1)))
            self.assertEqual(health.returncode, 0, health.stderr)
        finally:
            run("rm", "--force", name)


def wait_for(address: str) -> int:
    """The status that a server answers with, once it is there."""
    for _ in range(120):
        try:
            return urllib.request.urlopen(address, timeout=5).status
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(address)


if __name__ == "__main__":
    unittest.main()
