"""LLM judges that can be audited: rubrics, battles against an anchor, panels, calibration, attacks.

estbench imports nothing of this; its command line finds `estbench_judges.commands` by name.
"""
