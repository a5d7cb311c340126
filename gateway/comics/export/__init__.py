"""A comic as a file: pages laid out by data, lettered with text, written out page by page.

    layouts    which places a page has, from ``layouts/*.toml``
    faces      the fonts, and how wide a text is in them
    lettering  a text in a box: wrapped, and as large as it may be
    pages      which panel stands where: chapters, layout and lettering put together
    pictures   a panel's picture, cut and scaled for its place
    pdf, cbz   the same pages, written in either format
    service    from a caller and a comic to the bytes

Lengths are points, 1/72 inch, from the upper left corner of a page.
"""
