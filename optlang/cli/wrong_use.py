"""What the command line's parser says of wrong use, in the words of all other errors: thing, reason, way out."""

from __future__ import annotations

import re
from typing import Any

from optlang.cli.exits import usage
from optlang.diagnostics.suggest import closest
from optlang.interfaces import OptlangError

_PLAIN = (
    (r"Input should be a valid integer.*", "that is no whole number"),
    (r"Input should be a valid number.*", "that is no number"),
    (r"Input should be greater than or equal to (\S+)", r"the least is \1"),
    (r"Input should be less than or equal to (\S+)", r"the most is \1"),
)
"""What the parser says of values, and the same in plain words; anything else stays as it is."""


def said(error: Any) -> OptlangError:
    """The error of wrong use (exit code 2) that a usage error of the parser stands for."""
    context = getattr(error, "ctx", None)
    name = context.command_path if context is not None else "optlang"
    known = f"`{name} --help` says what it takes"
    message = str(error.message)
    option = getattr(error, "option_name", None)
    param = getattr(error, "param", None)
    if hasattr(error, "possibilities"):
        near = sorted(error.possibilities or ())
        if re.fullmatch(r"-\d+", str(option)):
            return usage(f"`{name}` takes no number below 0: {option}", known)
        return usage(f"`{name}` has no option {option}", f"did you mean `{near[0]}`?" if near else known)
    if option is not None:
        return usage(f"{option} {'takes no value' if 'not take' in message else 'needs a value'}", known)
    if param is not None:
        return _of_a_value(message, param, name, known)
    command = re.match(r"No such command '(.*?)'", message)
    if command and context is not None:
        commands = sorted(getattr(context.command, "commands", {}))
        near_one = closest(command[1], commands)
        help_text = f"did you mean `{near_one}`?" if near_one else f"the commands are {', '.join(commands)}"
        return usage(f"`{name}` has no command {command[1]}", help_text)
    more = re.match(r"Got unexpected extra argument.* \((.*)\)$", message)
    if more:
        return usage(f"`{name}` takes fewer arguments: {more[1]} is too many", known)
    return usage(message.rstrip("."), known)


def _of_a_value(message: str, param: Any, name: str, known: str) -> OptlangError:
    """Of an argument or an option: it is missing, or its value is wrong."""
    option = next((text for text in param.opts if text.startswith("--")), None)
    called = option or str(param.metavar or param.name).strip("[]{}").upper()
    about = getattr(param, "help", None)
    help_text = f"{called}: {about.rstrip('.')}" if about else known
    if not message:
        return usage(f"`{name}` needs {called}", help_text)
    choice = re.fullmatch(r"Value error, '(.*?)' is not one of (.*)", message)
    if choice:
        choices = re.findall(r"'(.*?)'", choice[2])
        near = closest(choice[1], choices)
        help_text = f"did you mean `{near}`?" if near else f"it takes {', '.join(choices)}"
        return usage(f"{called}: there is no `{choice[1]}`", help_text)
    for pattern, plain in _PLAIN:
        found = re.fullmatch(pattern, message)
        if found:
            message = found.expand(plain)
            break
    return usage(f"{called}: {message.rstrip('.')}", help_text)
