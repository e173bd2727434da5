"""The words that every other room uses: plain data, pydantic and the standard library only."""
