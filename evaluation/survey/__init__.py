"""The paper's user study (Table 2) of a run: a page that asks people, and the tally of their answers."""
