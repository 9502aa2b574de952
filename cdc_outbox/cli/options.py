"""Click options derived from `Settings`: in every command the same name, variable, default and help.

In: the command line, the environment, the TOML file. Out: parsed values with their origins, and `Settings`.
Never: the name, the variable or the default of an option written a second time; a connection.

For a command: `@dsn_option`, `@slot_option`, …, or `@option("topic")` for any other. The value is passed to the parameter
of the option's name (`--max-in-flight-bytes` to `max_in_flight_bytes`); `--config` is added as well:

    dsn                       Secret, or None: libpq's environment applies (`reveal(dsn)` is "" then)
    table                     one TableName with `@table_option`, a tuple of them with `@tables_option`
    brokers                   str, or None
    slot, publication, topic  str
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

import click
from click.core import ParameterSource

from cdc_outbox.config.cures import DEPLOYMENT, complete
from cdc_outbox.config.kafka_properties import KafkaProperties
from cdc_outbox.config.options import Option
from cdc_outbox.config.settings import OPTIONS, Settings
from cdc_outbox.config.sources import Chosen, OptionConflict, settings_from, with_preset
from cdc_outbox.config.value_types import SWITCH, Secret, ValueType, split_list
from cdc_outbox.errors import CdcOutboxError
from cdc_outbox.identifiers import TableName

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
"""Key of the `TomlFile` in a click context's `meta`."""

_ORIGINS: Final = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
}


if TYPE_CHECKING:
    _AnyType = click.ParamType[object]
else:
    _AnyType = click.ParamType  # before click 8.4 it is not generic at run time


class ParsedText(_AnyType):
    """A `ValueType` as a click type. A value that is already parsed passes unchanged."""

    def __init__(self, value_type: ValueType) -> None:
        self.name = value_type.metavar
        self._value_type = value_type

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> object:
        """Parse. click turns a failure into a usage error (2) that names the flag and the variable."""
        if not isinstance(value, str):
            return value
        try:
            return self._value_type.read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class SettingOption(click.Option):
    """The click option of a setting. `one`: a single value, although the option may be repeated elsewhere."""

    def __init__(self, setting: Option, *, one: bool = False) -> None:
        self.setting = setting
        is_switch = setting.value_type is SWITCH
        multiple = setting.repeat and not one
        super().__init__(
            _spellings(setting),
            type=None if is_switch else ParsedText(setting.value_type),
            is_flag=is_switch,
            multiple=multiple,
            default=_default(setting, multiple=multiple),
            metavar=None if is_switch else setting.value_type.metavar,
            help=setting.help,
            envvar=setting.variable if setting.in_environment else None,
            show_envvar=setting.in_environment,
            show_default=True,
            callback=_read_config_file if setting.name == "config" else None,
            is_eager=setting.name == "config",
            expose_value=setting.name != "config",
        )

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """Parse. A list for an option that takes a single value here is a usage error (2) unless it has one item."""
        if self.setting.repeat and not self.multiple and isinstance(value, (list, tuple)):
            if len(value) != 1:
                message = f"several are configured; choose one with --{self.setting.name}"
                raise click.BadParameter(message, ctx=ctx, param=self)
            value = value[0]
        return super().type_cast_value(ctx, value)

    def value_from_envvar(self, ctx: click.Context) -> Any:
        """The variable's text. Repeated values are separated by commas; a secret may be in the file that is named."""
        text = self.resolve_envvar_value(ctx)
        if self.setting.secret and not ctx.resilient_parsing:
            return _secret_from_environment(self.setting.variable, text)
        return self._split(text) if text and self.setting.repeat else text

    def _split(self, text: str) -> list[str]:
        """The items of the variable's text. If at least one is required, a text without items is refused as an empty name."""
        return split_list(text) or ([] if self.setting.default is None else [""])


class SettingsCommand(click.Command):
    """A command with settings as options: its help has a section for each of theirs, and the cures of its errors name them."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Completes the commands in the cure of an error."""
        try:
            return super().invoke(ctx)
        except CdcOutboxError as error:
            error.cure = complete_cure(ctx, error.cure)
            raise

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options, section by section; the command's own come last."""
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
    """Decorate a command's function with the option of a setting, and with `--config`."""

    def decorate(function: F) -> F:
        parameters: list[click.Parameter] = getattr(function, "__click_params__", [])
        if not any(parameter.name == "config" for parameter in parameters):
            parameters.append(SettingOption(OPTIONS["config"]))
        parameters.append(SettingOption(OPTIONS[name], one=one))
        function.__click_params__ = parameters  # type: ignore[attr-defined]  # as click's own decorators do
        return function

    return decorate


def options(names: Iterable[str]) -> Callable[[F], F]:
    """Decorate a command's function with the options of several settings."""
    ordered = list(names)

    def decorate(function: F) -> F:
        for name in reversed(ordered):
            function = option(name)(function)
        return function

    return decorate


all_options: Final = options(name for name in OPTIONS if name != "config")
dsn_option: Final = option("dsn")
slot_option: Final = option("slot")
publication_option: Final = option("publication")
table_option: Final = option("table", one=True)
tables_option: Final = option("table")
topic_option: Final = option("topic")


def reveal(dsn: Secret | None) -> str:
    """The connection string for the driver; empty (libpq's environment applies) if there is none."""
    return "" if dsn is None else dsn.reveal()


def choose(ctx: click.Context) -> dict[str, Chosen]:
    """By option name, the chosen value of each of the command's settings, the preset applied."""
    return with_preset(
        {
            parameter.setting.name: _chosen(ctx, parameter)
            for parameter in ctx.command.params
            if isinstance(parameter, SettingOption) and parameter.expose_value
        }
    )


def kafka_properties(ctx: click.Context, chosen: Mapping[str, Chosen]) -> KafkaProperties:
    """The chosen librdkafka properties."""
    flags = cast("tuple[tuple[str, str], ...]", chosen["kafka-property"].value)
    file = chosen["kafka-config"].value
    return KafkaProperties(flags, os.environ.copy(), None if file is None else str(file), config_file(ctx))


def settings_of(ctx: click.Context, *, brokers_required: bool = True) -> Settings:
    """The settings of a command; those it has no option for have their defaults.

    Raises a usage error (2) for a missing or a conflicting option, ConfigurationError (78) for Kafka properties.
    """
    chosen = choose(ctx)
    try:
        if "brokers" not in chosen:
            return settings_from(chosen)
        kafka = kafka_properties(ctx, chosen)
        chosen["brokers"] = kafka.brokers(chosen["brokers"])
        if chosen["brokers"].value is None and brokers_required:
            raise click.UsageError(
                "which Kafka? Name its brokers: --brokers host:9092, CDC_OUTBOX_BROKERS, or brokers in the --config file.",
                ctx,
            )
        return settings_from(chosen, kafka)
    except OptionConflict as conflict:
        raise click.UsageError(str(conflict), ctx) from None


def deployment(ctx: click.Context) -> Settings:
    """The settings of a command, and those that it has no option for but the commands in its cures need: from the environment
    and the TOML file. Raises a usage error (2), or OptionConflict.
    """
    chosen = choose(ctx)
    for name in DEPLOYMENT:
        if name not in chosen and name != "shard":
            parameter = SettingOption(OPTIONS[name])
            value, _source = parameter.consume_value(ctx, {})
            chosen[name] = Chosen(parameter.process_value(ctx, value), "")
    table = chosen["table"].value
    if isinstance(table, TableName):
        chosen["table"] = Chosen((table,), "")
    return settings_from(chosen)


def complete_cure(ctx: click.Context, cure: str) -> str:
    """The cure, its commands with the options of this command's deployment. Unchanged if those contradict each other."""
    try:
        return complete(cure, deployment(ctx))
    except (OptionConflict, click.UsageError, CdcOutboxError):
        return cure


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
    """The declaration for click: the parameter's name, then the flags, short ones first."""
    switch = f"/--no-{setting.name}" if setting.value_type is SWITCH else ""
    long = [] if setting.short_only else [f"--{setting.name}{switch}"]
    return [setting.key, *(flag for flag in setting.aliases if len(flag) == 2), *long] + [
        flag for flag in setting.aliases if len(flag) > 2
    ]


def _default(setting: Option, *, multiple: bool) -> object:
    if setting.value_type is SWITCH:
        return setting.default == "true"
    if multiple:
        return [] if setting.default is None else split_list(setting.default)
    return setting.default


def _secret_from_environment(variable: str, text: str | None) -> Secret | None:
    """The secret in `variable`, or in the file that `<variable>_FILE` names; the file is read again at each use."""
    from cdc_outbox.config.secret_files import SecretFile

    file = SecretFile.named_by(variable, os.environ)
    if file is None:
        return Secret.dsn(lambda: text) if text else None
    secret = Secret.dsn(file.read)
    secret.reveal()  # an unreadable file is reported now, not when the relay connects
    return secret


def _read_config_file(ctx: click.Context, _parameter: click.Parameter, path: str | None) -> None:
    """Use the TOML file's values as click's default map: below flags and variables, above defaults."""
    if path is None or ctx.resilient_parsing:
        return
    from cdc_outbox.config.toml_file import TomlFile

    file = TomlFile(path)
    values: Mapping[str, object] = file.values()
    ctx.meta[_CONFIG_FILE] = file
    ctx.default_map = {**(ctx.default_map or {}), **{OPTIONS[name].key: value for name, value in values.items()}}
