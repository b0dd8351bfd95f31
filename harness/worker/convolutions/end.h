/* What the next kind of vectors defines anew. */
#undef VECTOR
#undef LOAD
#undef STORE
#undef WIDE
#undef LANES
#undef AT_ONCE
#undef HALVES
#undef NAME
