"""Comics: chapters of panels, drawn so that a character stays the same from panel to panel."""
