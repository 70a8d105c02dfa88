/** Runs the Python unit tests with pytest inside Pyodide; see test_in_pyodide.py. */

onmessage = async ({data: {base, archive, files}}) => {
  try {
    const {loadPython} = await import(`${base}static/js/runtime.mjs`);
    const python = await loadPython({died: (error) => postMessage({error: `Python stopped: ${error?.stack ?? error}`})});
    python.unpackArchive(await (await fetch(archive)).arrayBuffer(), "zip", {extractDir: "/suite"});
    python.globals.set("files", python.toPy(files));
    const report = await python.runPythonAsync(`
import json, sys
sys.path[:0] = ["/suite/packages", "/suite/tests_py"]
import pytest, unhurried

class Recorder:
    def __init__(self):
        self.passed, self.skipped, self.failed = [], [], {}

    def pytest_collectreport(self, report):
        if report.failed:
            self.failed[report.nodeid] = str(report.longrepr)[-2000:]

    def pytest_runtest_logreport(self, report):
        if report.failed:
            self.failed[report.nodeid] = str(report.longrepr)[-2000:]
        elif report.skipped:
            self.skipped.append(report.nodeid)
        elif report.when == "call":
            self.passed.append(report.nodeid)

recorder = Recorder()
code = pytest.main(
    ["-q", "-c", "/suite/pytest.ini", "--rootdir=/suite", "-p", "no:cacheprovider", "-p", "no:faulthandler", *files],
    plugins=[recorder],
)
json.dumps({"code": int(code), **vars(recorder)})`);
    postMessage({report: JSON.parse(report)});
  } catch (error) {
    postMessage({error: String(error?.stack ?? error)});
  }
};
