"""The gate: did this checkpoint get worse? pass, regression, or undecided, with the evidence.

    rules = policy.read("gate.yaml")                     what may fall by how much, and how often it may cry wolf
    found = verdict.decide(rules, candidate, baseline)   one comparison
    found.status, found.exit_code, found.tasks

`policy` the file that a project commits, `verdict` the decision, `diagnosis` format or ability, `reports` what people
and machines read, `sources` where runs come from, `looks` deciding while it evaluates, `calibration` how this policy
behaves.
"""
