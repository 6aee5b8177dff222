"""Options from the command line: every flag, its help and its default come from the dataclasses in `settings`."""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from scorefield.checks import nearest
from scorefield.cli.codes import BAD_INPUT


class Parser(ArgumentParser):
    """Flags with dashes (`--checkpoint-seconds` is the option `checkpoint_seconds`), and errors in one line."""

    def format_help(self, *args: Any, **kwargs: Any) -> str:
        """Help text with dashes in the names of the flags."""
        return re.sub(r"--[a-z][a-z_.]*", lambda m: _dashed(m[0]), super().format_help(*args, **kwargs))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Name what is wrong, with the nearest option where one is unknown, and exit with code 2."""
        unknown = re.search(r"[Uu]nrecognized arguments: (--[^ =]+)", message)
        known = [_dashed(flag) for action in self._actions for flag in action.option_strings]
        hint = nearest(_dashed(unknown[1]), known) if unknown else ""
        wrong = re.search(r'key "(\S+)":.*(?:Given value|Got value): ([^\n]*)', message, re.S)
        if wrong:
            kinds = [_kind(action) for action in self._actions if action.dest == wrong[1]]
            message = f"--{_dashed(wrong[1])} must be {kinds[0] if kinds else 'of another type'}, got {wrong[2]!r}"
        print(f"error: {message.strip()}{hint}\n{self.prog} --help tells all options", file=sys.stderr)
        sys.exit(BAD_INPUT)


def _kind(action: Any) -> str:
    """The type of an option in words."""
    hint = str(getattr(action, "_typehint", None) or action.type)
    names = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
    return next((words for name, words in names.items() if name in hint), "of another type")


def _dashed(flag: str) -> str:
    return flag if flag == "--print_config" else flag.replace("_", "-")


def parse(
    name: str, kinds: Sequence[type], short: Mapping[str, str], positional: Sequence[str], argv: Sequence[str]
) -> list[Any]:
    """Turn the arguments of a command into its options.

    Args:
        name: the command.
        kinds: the dataclasses whose fields are its options.
        short: field -> short flag, such as `-n`.
        positional: the fields that are given without a flag, in their order.
        argv: the arguments after the command's name.

    Returns:
        one instance per dataclass; exits with code 2 and a message when the arguments are off.
    """
    parser = Parser(prog=f"scorefield {name}", description=(kinds[0].__doc__ or "").split("\n")[0])
    parser.add_argument("--config", action="config", help="read options from a YAML file")
    for kind in kinds:
        by_hand = [f for f in dataclasses.fields(kind) if f.name in short or f.name in positional or f.default is False]
        for field in by_hand:
            text = re.search(rf"^ +{field.name}: (.*(?:\n {{12}}.*)*)$", kind.__doc__ or "", re.M)
            about: dict[str, Any] = {"help": " ".join(text[1].split()) if text else ""}
            flags = [*([short[field.name]] if field.name in short else []), f"--{field.name}"]
            if field.default is False:
                parser.add_argument(*flags, action="store_true", **about)
            elif field.name in positional:
                parser.add_argument(field.name, type=str, **about)
            else:
                kind_of = int if str(field.type).startswith("int") else str
                parser.add_argument(*flags, type=kind_of, default=field.default, **about)
        parser.add_class_arguments(kind, skip={f.name for f in by_hand}, as_group=False)
    values = parser.instantiate(parser.parse_args([_underscored(a) for a in argv]))
    return [kind(**{f.name: values[f.name] for f in dataclasses.fields(kind)}) for kind in kinds]


def _underscored(argument: str) -> str:
    """`--label-column=a-b` -> `--label_column=a-b`."""
    flag, equals, value = argument.partition("=")
    return f"--{flag[2:].replace('-', '_')}{equals}{value}" if flag.startswith("--") else argument
