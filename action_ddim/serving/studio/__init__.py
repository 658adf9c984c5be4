"""The local page that records, replays and fills in; read in this order: server, guard, studio, sessions, drawing."""
