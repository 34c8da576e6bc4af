"""The doctor: what this machine has, what is wrong with it, and the command that fixes it.

facts = probe()                     collects facts about the machine
findings = examine(facts)           evaluates the facts alone, without further access to the machine
"""

from aselect_runtime.doctor.checks import examine
from aselect_runtime.doctor.facts import Facts, Finding
from aselect_runtime.doctor.probe import probe

__all__ = ["Facts", "Finding", "examine", "probe"]
