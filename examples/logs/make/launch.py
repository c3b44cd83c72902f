"""Run a program made of several files so that tracebacks show relative paths.

usage: python3 launch.py app/shared_log.py app/store.py app/orders.py

Every file but the last becomes an importable module; the last is the program.
"""
import os
import sys
import types


def load(path, name):
    with open(path, encoding="utf-8") as f:
        code = compile(f.read(), path, "exec")
    module = types.ModuleType(name)
    module.__file__ = path
    sys.modules[name] = module
    exec(code, module.__dict__)


*modules, program = sys.argv[1:]
for path in modules:
    load(path, os.path.splitext(os.path.basename(path))[0])
load(program, "__main__")
