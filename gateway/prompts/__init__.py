"""Words before they become pictures: styles, enhancement, parsing, templates."""
