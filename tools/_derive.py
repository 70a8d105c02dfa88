"""Turns wllama's classic Emscripten script into the two files that the engine host loads.

wllama ships a classic script that its own class evaluates inside a `blob:` worker. Sippet's content security
policy has neither `blob:` nor `'unsafe-eval'`, so the same script is wrapped, unchanged but for its first
statement:

- `module`: an ES module whose default export runs the script in the caller's realm. What the caller has to
  replace (the file hook, JSPI, the GPU) are parameters, so that they shadow the globals.
- `pthread`: the static script that Emscripten's thread workers start from. A thread never suspends, but the
  script names `WebAssembly.Suspending` while it starts, so browsers without JSPI get plain stand-ins.
"""

from __future__ import annotations

from _report import ToolError

_FIRST = 'var Module=typeof Module!="undefined"?Module:{};'

_MODULE_HEAD = """\
// Derived from wllama.js (see vendor.lock.json) by tools/_derive.py; do not edit.
export default function createWllama(
  Module,
  {_wllama_js_file_read, WebAssembly = globalThis.WebAssembly, navigator = globalThis.navigator,
   Worker = globalThis.Worker} = {},
) {
"""

_MODULE_TAIL = """
return Module;
}
"""

_PTHREAD_HEAD = """\
// Derived from wllama.js (see vendor.lock.json) by tools/_derive.py; do not edit.
if (!WebAssembly.Suspending) {
  WebAssembly.Suspending = function (f) { return f; };
  WebAssembly.promising = (f) => async (...args) => f(...args);
}
"""


def derive(form: str, source: bytes) -> bytes:
    """Make one derived file. Raises `ToolError` where the source has lost the shape that this relies on."""
    script = source.decode("utf-8")
    if not script.startswith(_FIRST) or script.count("var Module=") != 1:
        raise ToolError(
            "vendor-derive-shape",
            "wllama.js no longer starts by declaring Module once; adapt tools/_derive.py to the new version",
        )
    if form == "module":
        return (_MODULE_HEAD + script.removeprefix(_FIRST) + _MODULE_TAIL).encode()
    if form == "pthread":
        return (_PTHREAD_HEAD + script).encode()
    raise ToolError("vendor-lock-invalid", f"unknown derived form {form!r} in the vendor lock")
