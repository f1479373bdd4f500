"""Runs notebooks one after the other in this process, without a network: python offline.py A.ipynb B.ipynb

Prints JSON: name -> the text that its cells gave, its seconds, and the first error, if any. Each notebook has
names of its own, and runs in its own folder.
"""

import contextlib
import io
import json
import os
import socket
import sys
import time
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell


def refuse(*_args, **_kwargs):
    raise OSError("the network is cut off")


def run(path):
    shell = InteractiveShell.instance()
    shell.reset()
    shell.colors = "nocolor"
    os.chdir(path.parent)
    out, start, error = io.StringIO(), time.monotonic(), ""
    with contextlib.redirect_stdout(out):
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                done = shell.run_cell("".join(cell["source"]))
                if not done.success:
                    error = repr(done.error_before_exec or done.error_in_exec)
                    break
    return {"text": out.getvalue(), "seconds": time.monotonic() - start, "error": error}


if __name__ == "__main__":
    socket.socket.connect = socket.socket.connect_ex = socket.create_connection = refuse
    socket.getaddrinfo = refuse
    import pandas as pd

    pd.options.display.width, pd.options.display.max_columns = 200, None
    results = {Path(x).name: run(Path(x).resolve()) for x in sys.argv[1:]}
    print(json.dumps(results))
