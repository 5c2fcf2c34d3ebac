"""Numbers and GUIDs of the bus and of our device. Source: spec/vmbus.md §3, spec/azure-blob-device.md §1.3 and §6."""

from __future__ import annotations

from pvblob.vmbus.guid import Guid

DATAGRAM_BYTES_MAX = 240
HEADER_BYTES = 8
PAGE_BYTES = 4096
USER_DATA_BYTES = 120
REFUSED_TEXT_BYTES_MAX = 200
RELID_MAX = 2047  # channel ids run from 1 (vmbus.md §4)
FIRST_GPADL_ID = 0xE1E10  # where Linux begins to count (vmbus.md §3.2)
REGION_SEALED = 1  # bit 0 of MEMORY_REGION's flags

AZURE_BLOB_CLASS = Guid.of("0590b792-db64-45cc-81db-b8d70c577c9e")
VPCI_CLASS = Guid.of("44c4f61d-4444-4400-9d52-802e27ede19f")
# The instances whose vPCI offer is a twin of the Azure Blob channel, without a PCI device behind it.
VPCI_TWIN_INSTANCES = frozenset({Guid.of("d4573da2-2caa-4711-a8f9-bbabf4ee9685")})

VERSION_3_0 = 3 << 16
VERSION_4_0 = 4 << 16
VERSION_5_0 = 5 << 16
VERSION_5_2 = 5 << 16 | 2
VERSION_5_3 = 5 << 16 | 3
VERSION_6_0 = 6 << 16

STATUS_SUCCESS = 0
STATUS_UNSUCCESSFUL = 0x8000FFFF
STATUS_REFUSED = 0xC0000236
NO_INTERRUPTS = 0xFFFFFFFF  # target VP of OPEN_CHANNEL and MODIFY_CHANNEL

VMBUS_TYPES = range(1, 30)
OWN_TYPES = range(0x1001, 0x1100)
