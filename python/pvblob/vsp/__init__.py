"""THE HOST's half: listens, offers the device, hands guests' requests to a backend and completes each exactly once."""
