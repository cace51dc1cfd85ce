"""What is wrong with a connection that shows only beside its platform and its mapping file."""

from __future__ import annotations

from connector.config import Connection
from connector.domain.errors import ConfigError
from connector.mapping import MappingFile
from connector.mapping import load as load_mapping
from connector.ports import Platform


def load_connection(connection: Connection, platform: Platform) -> MappingFile:
    """The mapping of a connection. Raises ConfigError with every fault of the connection."""
    try:
        file = load_mapping(connection.mapping, connection.mapping_changes)
    except ConfigError as error:
        faults = _link_faults(connection, platform)
        raise ConfigError.of_all([error, *([ConfigError(faults)] if faults else [])]) from None
    if faults := _source_faults(connection, file) + _link_faults(connection, platform):
        raise ConfigError(faults)
    return file


def faults_beside(connection: Connection, platform: Platform) -> list[str]:
    """The faults that `load_connection` raises, without those of the mapping file itself."""
    try:
        file = load_mapping(connection.mapping, connection.mapping_changes)
    except ConfigError:
        return _link_faults(connection, platform)
    return _source_faults(connection, file) + _link_faults(connection, platform)


def _source_faults(connection: Connection, file: MappingFile) -> list[str]:
    source = file.mapping.source
    if source == connection.source:
        return []
    return [
        f"connections.{connection.name}.mapping: found a mapping for {source}, "
        f"allowed one for {connection.source}"
    ]


def _link_faults(connection: Connection, platform: Platform) -> list[str]:
    """Audiences on a platform without any, and actions of joins that it does not offer. Segments on
    a platform without any are no fault: they are shown as not offered."""
    name, offers, found = connection.name, platform.offers, []
    count = len(connection.audiences) if "audiences" in connection.modules else 0
    if count and "audiences" not in offers:
        found.append(
            f"connections.{name}.audiences: found {count}, "
            f"allowed none: {platform.title} has no audiences"
        )
    if "segments" in connection.modules and "segments" in offers:
        for entry in connection.segments:
            if unsupported := sorted({join.action for join in entry.on_join} - offers):
                found.append(
                    f"connections.{name}.segments: on_join of {entry.segment}: "
                    f"found {', '.join(unsupported)}, which {platform.title} does not offer"
                )
    return found
