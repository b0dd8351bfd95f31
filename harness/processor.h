/* What lies between BEGIN and END is compiled for processors with those features, whatever the rest is compiled for. */

#if defined(__x86_64__) && defined(__clang__)
#define PRAGMA(text) _Pragma(#text)
#define BEGIN(features) PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define END _Pragma("clang attribute pop")
#elif defined(__x86_64__)
#define PRAGMA(text) _Pragma(#text)
#define BEGIN(features) _Pragma("GCC push_options") PRAGMA(GCC target(features))
#define END _Pragma("GCC pop_options")
#endif
