"""What speaks HTTP to the exporter's own clients: scrapes, the JSON API, reload, and the status page."""
