"""THE GUEST's half: opens the device, lends memory, sends requests, waits. It runs no thread of its own."""
