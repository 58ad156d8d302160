#!/usr/bin/env bash
# Runs `estbench gate` and tells GitHub: outputs, the job's summary, a line over the job. What it is told stands in
# GATE_…, which action.yml fills from its inputs; none of it is ever read as code.
#
#   pass           exit 0
#   regression     exit 1: the job fails
#   undecided      exit 0 and a warning; output exit-code=3
#   not evaluated  tried again (GATE_RETRIES), then exit 4: what was answered before is not asked again
#   error          exit 2: wrong input, with the message
#
# A verdict is an exit code together with the line that says it. Anything else (a crash of Python has exit code 1, too;
# a process that was killed has 137) is no verdict: not evaluated.
set +e -uo pipefail
trap 'exit 130' INT TERM # a job that is cancelled is not tried again

: "${GITHUB_OUTPUT:=/dev/null}" "${GITHUB_STEP_SUMMARY:=/dev/null}"
work=$(mktemp -d "${RUNNER_TEMP:-/tmp}/estbench-gate.XXXXXX") || exit 2
report=$work/report.txt messages=$work/messages.txt
markdown=${GATE_MARKDOWN:-$work/gate.md}
token=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')

# annotate KIND TEXT: a line over the job. GitHub reads %, CR and LF in it only when they are escaped.
annotate() {
    local text=$2
    text=${text//'%'/%25}
    text=${text//$'\r'/%0D}
    text=${text//$'\n'/%0A}
    printf '::%s title=estbench gate::%s\n' "$1" "$text"
}

# output NAME TEXT: an output of this step, of any number of lines.
output() {
    printf '%s<<%s\n%s\n%s\n' "$1" "$token" "$2" "$token" >>"$GITHUB_OUTPUT"
}

# attempt: one call of estbench, with its exit code in $code. GitHub does not take what it prints for commands.
attempt() {
    rm -f -- "$markdown" ${GATE_JUNIT:+"$GATE_JUNIT"} # those of an earlier run say nothing about this one
    printf '::stop-commands::%s\n' "$token"
    "${command[@]}" "${words[@]}" 2>&1 >"$report" | tee "$messages"
    code=${PIPESTATUS[0]}
    cat "$report"
    printf '\n::%s::\n' "$token"
}

# judge: $status and $text (the report's first lines, or the message) of an attempt; $code becomes 4 without a verdict.
judge() {
    text=$(sed '/^$/q' "$report")
    case "$code $text" in
        "0 PASS: "*) status=pass ;;
        "1 REGRESSION: "*) status=regression ;;
        "3 UNDECIDED: "*) status=undecided ;;
        "4 NOT EVALUATED: "*) status='not evaluated' ;;
        *)
            text=$(grep '^estbench: ' "$messages" | tail -n 1)
            [ -n "$text" ] || text=$(grep -v '^[[:space:]]*$' "$messages" | tail -n 1)
            [ -n "$text" ] || text='estbench said nothing.'
            case $code in
                126 | 127) text="${command[0]} can't be started (${text##*: }): is estbench installed?" code=2 ;;
                2 | 4) ;;
                *) text="No verdict, exit code $code. $text" code=4 ;;
            esac
            if [ "$code" = 2 ]; then status=error; else status='not evaluated'; fi
            ;;
    esac
}

read -r -a command <<<"$GATE_COMMAND"
words=(gate output=table "markdown=$markdown")
for key in candidate model baseline policy budget data engine junit; do
    name=GATE_$(tr '[:lower:]' '[:upper:]' <<<"$key")
    [ -z "${!name}" ] || words+=("$key=${!name}")
done
while read -r word || [ -n "$word" ]; do
    [ -z "$word" ] || words+=("$word")
done <<<"$GATE_WORDS"

status=error code=2
case $GATE_RETRIES in
    '' | *[!0-9]*) text="retries: '$GATE_RETRIES' is no whole number." ;;
    *)
        [ "${#command[@]}" -gt 0 ] || command=(estbench)
        left=$GATE_RETRIES
        attempt
        judge
        while [ "$status" = 'not evaluated' ] && [ "$left" -gt 0 ]; do
            annotate notice "Not evaluated, tried again: $text"
            left=$((left - 1))
            attempt
            judge
        done
        ;;
esac

output status "$status"
output exit-code "$code"
output first-lines "$text"
output report "$report"
if [ "$status" != error ] && [ -s "$markdown" ]; then
    cat "$markdown" >>"$GITHUB_STEP_SUMMARY"
else
    # Four spaces make it a block of code: nothing in it is markup.
    printf '### estbench gate: %s\n\n    %s\n' "$status" "${text//$'\n'/$'\n    '}" >>"$GITHUB_STEP_SUMMARY"
fi
case $status in
    pass) ;;
    undecided) annotate warning "$text" && exit 0 ;;
    *) annotate error "$text" && exit "$code" ;;
esac
