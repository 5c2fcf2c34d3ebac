"""Host-accelerated blob access: processes hand Azure Blob requests to a host service through shared memory."""
