"""Click options made from the one table in `options.OPTIONS`: same name, variable, default and help in every command.

In: the command line, the environment, the TOML file. Out: parsed values, each with where it came from.
Never: a second place where an option's name, variable or default is written.

For a command: `@dsn_option`, `@slot_option`, …, or `@option("topic")` for any of the table. Each hands the value to the
parameter of its name (`--max-in-flight-bytes` to `max_in_flight_bytes`), and brings `--config` along:

    dsn                       Secret, or None: libpq's own environment applies (`reveal(dsn)` is "" then)
    table                     one TableName with `@table_option`, a tuple of them with `@tables_option`
    brokers                   str, or None
    slot, publication, topic  str
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click
from click.core import ParameterSource

from cdc_outbox.config.options import OPTIONS, Option, dsn_secret, preset_values
from cdc_outbox.config.settings import Secret
from cdc_outbox.config.sources import Chosen
from cdc_outbox.config.value_types import SWITCH, split_list

if TYPE_CHECKING:
    from cdc_outbox.config.toml_file import TomlFile

F = TypeVar("F", bound=Callable[..., object])

CONTEXT: Final[dict[str, Any]] = {
    "help_option_names": ["-h", "--help"],
    "show_default": True,
    "max_content_width": 110,
}
"""The group's context settings; its commands inherit them."""

_CONFIG_FILE: Final = "cdc_outbox.config_file"
"""Key in a click context's `meta`: the `TomlFile` that was read."""

_ORIGINS: Final = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
}


if TYPE_CHECKING:
    _AnyType = click.ParamType[object]
else:
    _AnyType = click.ParamType  # before click 8.4 it is not generic at run time


class ValueType(_AnyType):
    """A `values.Kind` as click wants it. A value that is parsed already passes."""

    def __init__(self, setting: Option, *, one: bool) -> None:
        self.name = setting.kind.metavar
        self._setting = setting
        self._one = one

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> object:
        """Parse. click makes a usage error (2) of a failure, and names the flag and the variable in it."""
        if self._one and self._setting.repeat and isinstance(value, (list, tuple)):
            if len(value) != 1:
                self.fail(f"several are configured; choose one with --{self._setting.name}", param, ctx)
            value = value[0]
        if not isinstance(value, str):
            return value
        try:
            return self._setting.kind.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class SettingOption(click.Option):
    """An option of the table. `one`: a single value, although the table says that it may be repeated."""

    def __init__(self, setting: Option, *, one: bool = False) -> None:
        self.setting = setting
        multiple = setting.repeat and not one
        super().__init__(
            _spellings(setting),
            type=None if setting.kind is SWITCH else ValueType(setting, one=not multiple),
            is_flag=setting.kind is SWITCH,
            multiple=multiple,
            default=_default(setting, multiple=multiple),
            metavar=None if setting.kind is SWITCH else setting.kind.metavar,
            help=setting.help,
            envvar=setting.variable if setting.in_environment else None,
            show_envvar=setting.in_environment,
            show_default=True,
            callback=_read_config_file if setting.name == "config" else None,
            is_eager=setting.name == "config",
            expose_value=setting.name != "config",
        )

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """The variable's text. Repeated values are separated by commas; a secret may be in the file that is named."""
        text = self.resolve_envvar_value(ctx)
        if self.setting.secret and not ctx.resilient_parsing:
            return _secret_from_environment(self.setting.variable, text)
        return self._split(text) if text and self.setting.repeat else text

    def _split(self, text: str) -> list[str]:
        """The variable's items. Where one has to be named, a text without any is no choice of none: it is refused as a name."""
        return split_list(text) or ([] if self.setting.default is None else [""])


class SettingsCommand(click.Command):
    """A command with many options of the table: its help shows them by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section; those that are not of the table come last."""
        sections: dict[str, list[tuple[str, str]]] = {option.section: [] for option in OPTIONS.values()}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            section = parameter.setting.section if isinstance(parameter, SettingOption) else "Other options"
            if record is not None:
                sections.setdefault(section, []).append(record)
        for title, records in sections.items():
            if records:
                with formatter.section(title):
                    formatter.write_dl(records)


def option(name: str, *, one: bool = False) -> Callable[[F], F]:
    """Decorate a command's function with an option of the table, and with `--config`."""

    def decorate(function: F) -> F:
        parameters: list[click.Parameter] = getattr(function, "__click_params__", [])
        if not any(parameter.name == "config" for parameter in parameters):
            parameters.append(SettingOption(OPTIONS["config"]))
        parameters.append(SettingOption(OPTIONS[name], one=one))
        function.__click_params__ = parameters  # type: ignore[attr-defined]  # what click's own decorators do
        return function

    return decorate


def all_options(function: F) -> F:
    """Decorate with every option of the table: `run`, and what explains it."""
    for name in reversed(OPTIONS):
        if name != "config":
            function = option(name)(function)
    return function


dsn_option: Final = option("dsn")
slot_option: Final = option("slot")
publication_option: Final = option("publication")
table_option: Final = option("table", one=True)
tables_option: Final = option("table")
brokers_option: Final = option("brokers")
topic_option: Final = option("topic")


def reveal(dsn: Secret | None) -> str:
    """The connection string for the driver; empty (libpq's environment) where none was given."""
    return "" if dsn is None else dsn.reveal()


def choose(ctx: click.Context) -> dict[str, Chosen]:
    """By option name, what a command's options came to, the preset applied."""
    chosen = {
        parameter.setting.name: _chosen(ctx, parameter)
        for parameter in ctx.command.params
        if isinstance(parameter, SettingOption) and parameter.expose_value
    }
    columns = chosen.get("columns")
    if columns is not None:
        for name, value in preset_values(str(columns.value)).items():
            if chosen[name].origin == "default":
                chosen[name] = Chosen(value, "preset", str(columns.value))
    return chosen


def config_file(ctx: click.Context) -> TomlFile | None:
    """The TOML file in use."""
    file: TomlFile | None = ctx.meta.get(_CONFIG_FILE)
    return file


def _chosen(ctx: click.Context, parameter: SettingOption) -> Chosen:
    source = ctx.get_parameter_source(parameter.setting.key)
    origin = "default" if source is None else _ORIGINS.get(source, "default")
    place = ""
    if origin == "environment":
        variable = parameter.setting.variable
        place = variable if os.environ.get(variable) else f"{variable}_FILE"
    elif origin == "file":
        place = str(config_file(ctx))
    return Chosen(ctx.params[parameter.setting.key], origin, place)


def _spellings(setting: Option) -> list[str]:
    """What click declares: the parameter's name, then the flags, short ones first."""
    switch = f"/--no-{setting.name}" if setting.kind is SWITCH else ""
    long = [] if setting.short_only else [f"--{setting.name}{switch}"]
    return [setting.key, *(flag for flag in setting.aliases if len(flag) == 2), *long] + [
        flag for flag in setting.aliases if len(flag) > 2
    ]


def _default(setting: Option, *, multiple: bool) -> object:
    if setting.kind is SWITCH:
        return setting.default == "true"
    if multiple:
        return [] if setting.default is None else [setting.default]
    return setting.default


def _secret_from_environment(variable: str, text: str | None) -> Secret | None:
    """The secret in `variable`, or in the file that `<variable>_FILE` names: that one is read again at each use."""
    from cdc_outbox.config.secret_files import SecretFile

    file = SecretFile.named_by(variable, os.environ)
    if file is None:
        return dsn_secret(lambda: text) if text else None
    secret = dsn_secret(file.read)
    secret.reveal()  # a file that is not there is told now, not when the relay streams
    return secret


def _read_config_file(ctx: click.Context, _parameter: click.Parameter, path: str | None) -> None:
    """Take the TOML file's values as click's default map: below flags and variables, above defaults."""
    if path is None or ctx.resilient_parsing:
        return
    from cdc_outbox.config.toml_file import TomlFile

    file = TomlFile(path)
    values: Mapping[str, object] = file.values()
    ctx.meta[_CONFIG_FILE] = file
    ctx.default_map = {**(ctx.default_map or {}), **{OPTIONS[name].key: value for name, value in values.items()}}
