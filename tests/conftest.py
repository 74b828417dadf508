"""The engine is a part of each vmtui that a test starts, and ends with it; tests/engine has it as a process of its own."""

import os

os.environ["VMTUI_ENGINE"] = "inside"
