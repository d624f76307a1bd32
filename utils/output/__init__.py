"""What people look at: plots, the page of results, LaTeX, Markdown."""
