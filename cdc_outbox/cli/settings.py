"""From a command's options to `config.Settings`.

In: a click context; what its command has no option for is as it is by default. Out: settings, checked.
Never: a connection. Errors: a usage error (2) for an option that is missing, ConfigurationError (78) for the rest.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final, cast

import click

from cdc_outbox.cli.options import SettingOption, choose, config_file
from cdc_outbox.config.kafka_properties import KafkaProperties
from cdc_outbox.config.options import OPTIONS
from cdc_outbox.config.settings import Settings, settings_from
from cdc_outbox.config.sources import Chosen

_RANK: Final = ("default", "file", "environment", "flag")


def kafka_properties(ctx: click.Context, chosen: Mapping[str, Chosen]) -> KafkaProperties:
    """What was chosen for librdkafka."""
    flags = cast("tuple[tuple[str, str], ...]", chosen["kafka-property"].value)
    file = chosen["kafka-config"].value
    return KafkaProperties(flags, os.environ.copy(), None if file is None else str(file), config_file(ctx))


def chosen_brokers(chosen: Mapping[str, Chosen], kafka: KafkaProperties) -> Chosen:
    """--brokers, or `bootstrap.servers` where that was chosen in a place of more weight."""
    option, servers = chosen["brokers"], kafka.brokers()
    return servers if servers and _RANK.index(servers.origin) > _RANK.index(option.origin) else option


def _defaults(ctx: click.Context) -> dict[str, Chosen]:
    """Every option as it is by default: neither file nor environment is asked for those that a command does not have."""
    parameters = [SettingOption(setting) for setting in OPTIONS.values()]
    return {
        each.setting.name: Chosen(each.type_cast_value(ctx, each.get_default(ctx, call=True)), "default")
        for each in parameters
    }


def settings_of(ctx: click.Context, *, brokers_needed: bool = True) -> Settings:
    """Everything that `run` needs to know."""
    chosen = {**_defaults(ctx), **choose(ctx)}
    kafka = kafka_properties(ctx, chosen)
    brokers = chosen_brokers(chosen, kafka).value
    if brokers is None and brokers_needed:
        raise click.UsageError(
            "which Kafka? Name its brokers: --brokers host:9092, CDC_OUTBOX_BROKERS, or brokers in the --config file.",
            ctx,
        )
    if chosen["on-poison"].value == "dead-letter" and chosen["dead-letter-topic"].value is None:
        raise click.UsageError("--on-poison dead-letter needs a topic to send them to: --dead-letter-topic TOPIC.", ctx)
    if chosen["format"].value != "debezium" and chosen["ce-source"].value is None:
        raise click.UsageError("CloudEvents need a source: --ce-source /shop/{aggregatetype}, for instance.", ctx)
    if chosen["shard"].value is not None and chosen["source"].value != "table":
        raise click.UsageError("--shard is for rows of a table: a publication does not filter logical messages.", ctx)
    if chosen["shard"].value is not None and chosen["prune-after"].value is not None:
        raise click.UsageError(
            "--shard and --prune-after do not go together: a shard's slot does not tell what the others have delivered.",
            ctx,
        )
    if chosen["source"].value == "message" and chosen["prune-after"].value is not None:
        raise click.UsageError(
            "--source message and --prune-after do not go together: messages are in no table, so there is nothing to delete.",
            ctx,
        )
    if chosen["partitions-ahead"].origin == "flag" and chosen["prune-after"].value is None:
        raise click.UsageError(
            "--partitions-ahead goes with --prune-after 7d, for instance: days are made where they are dropped.", ctx
        )
    values = {OPTIONS[name].key: one.value for name, one in chosen.items()}
    return settings_from(values, "" if brokers is None else str(brokers), kafka)
