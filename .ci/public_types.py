"""List the public names whose types pyright cannot tell, and fail if there are any.

What `pyright --verifytypes` does, without the integrations: those derive from classes of packages
that need not be installed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(sys.executable).parent

done = subprocess.run(
    [PROGRAMS / "pyright", "--outputjson", "--ignoreexternal", "--verifytypes", "gradmix_ext"],
    # pyright looks at the packages of the first `python` on PATH
    env={**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)},
    stdout=subprocess.PIPE,
    text=True,
    check=False,
)
names = json.loads(done.stdout)["typeCompleteness"]["symbols"]
assert len(names) > 1000, f"pyright saw only {len(names)} names"
bad = [
    name
    for name in names
    if name["isExported"]
    and not name["name"].startswith("gradmix_ext.integrations.")
    and (not name["isTypeKnown"] or name["isTypeAmbiguous"])
]
for name in bad:
    for said in name["diagnostics"]:
        if "partially unknown" not in said["message"]:  # which follows from another name's
            print(f"{name['name']}: {said['message']}")
sys.exit(f"{len(bad)} public names without a complete type" if bad else 0)
