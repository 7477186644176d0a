"""WebSockets: connections, what they are told, and how they are kept from costing too much."""
