"""The formats of others: written for CI and for shared databases, read from what other harnesses leave.

junit             test results that Jenkins, GitLab and GitHub's actions show
every_eval_ever   a run for the database of the EvalEval coalition
lm_eval_results   what `lm-eval --output_path` writes, taken in as a run
"""
