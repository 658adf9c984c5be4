"""One reader a format, all giving traces; read in this order: detect, tables, mouse_log, columns, strokes, studio."""
