"""``zhibei completion``: the scripts, and the words they ask for.

The scripts pass the whole line up to the cursor, because bash takes ``name:tag`` apart at the colon.
"""

from __future__ import annotations

from typing import Any

import click

from zhibei.cli.invocation import Invocation
from zhibei.cli.render import printable
from zhibei.cli.wording import command
from zhibei.errors import BadRequest
from zhibei.i18n import N_

_BASH = r"""_zhibei_completion() {
    local line=${COMP_LINE:0:COMP_POINT} word before value rest
    word=${line##* }
    before=${word%"${word##*:}"}
    COMPREPLY=()
    while IFS=$'\t' read -r value rest; do
        COMPREPLY+=("${value#"$before"}")
    done < <(zhibei completion words "$line" 2>/dev/null)
}
complete -o default -F _zhibei_completion zhibei
"""

_ZSH = r"""#compdef zhibei
_zhibei() {
    local -a values shown
    local value rest
    while IFS=$'\t' read -r value rest; do
        values+=("$value")
        shown+=("$value${rest:+  -- $rest}")
    done < <(zhibei completion words "${(j: :)words[1,CURRENT]}" 2>/dev/null)
    if (( ${#values} )); then compadd -l -d shown -a values; else _files; fi
}
compdef _zhibei zhibei
"""

_FISH = r"""function __zhibei_words
    zhibei completion words (commandline -cp | string collect) 2>/dev/null
end
complete --command zhibei --no-files --arguments '(__zhibei_words)'
"""

_SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


@command(
    "completion",
    N_(
        "Print a script that completes commands in a shell.\n"
        'bash and zsh: eval "$(zhibei completion bash)"; fish: zhibei completion fish | source'
    ),
)
@click.argument("shell", metavar="bash|zsh|fish")
@click.argument("line", required=False, default="", metavar="")
@click.pass_context
def COMMAND(ctx: click.Context, /, shell: str, line: str) -> None:
    """Print a shell's script, or, for ``words``, what may stand at the end of a line."""
    invocation: Invocation = ctx.obj
    if shell == "words":
        for value, meaning in _words(ctx, line):
            invocation.printer.data(f"{value}\t{meaning}" if meaning else value)
    elif shell in _SCRIPTS:
        invocation.printer.data(_SCRIPTS[shell].rstrip())
    else:
        known = ", ".join(_SCRIPTS)
        raise BadRequest("There is no completion for {shell!r}.", hint="Shells are: {known}", shell=shell, known=known)


def _words(ctx: click.Context, line: str) -> list[tuple[str, str]]:
    from click.shell_completion import ShellComplete, split_arg_string

    words = split_arg_string(line)
    incomplete = "" if not words or line[-1:].isspace() else words.pop()
    program = ctx.find_root().command
    arguments: dict[str, Any] = {"obj": ctx.obj}
    found = ShellComplete(program, arguments, "zhibei", "").get_completions(words[1:], incomplete)
    invocation: Invocation = ctx.obj
    return [(printable(str(item.value)), invocation.text(item.help or "")) for item in found if item.type == "plain"]
