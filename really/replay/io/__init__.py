"""A buffer's rows in other forms: saved buffers, pickles, Arrow, Parquet, Minari."""
