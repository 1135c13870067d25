"""Runs one scenario on one core and prints what it returns; where it hangs, every thread's stack."""

import faulthandler
import json
import sys

from . import SCENARIOS
from .lab import Lab

faulthandler.dump_traceback_later(60, exit=True)
core, scenario = sys.argv[1:]
lab = Lab(core)
result = SCENARIOS[scenario](lab)
if scenario != "stop_gives_up":
    assert lab.n.stop(60.0)
print(json.dumps(result))
