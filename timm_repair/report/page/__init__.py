"""The page: a repair to be looked at, one HTML file that needs nothing else. Values in, text out.

- page.py (`html`, `framed`): the whole, from page.html, page.css and page.js.
- headline.py: the numbers at the top.
- galleries.py: examples that were broken, fixed or are still wrong.
- classes.py: class by class, and what is taken for what.
- charts.py: a figure as SVG within the page.
- templates.py: texts of the package with values put into them, escaped.
- repeating.py: the command that repeats the repair.
"""
