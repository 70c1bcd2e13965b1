// Compiles only where the standard library has std::format.
#include <format>

std::string probe() { return std::format("{}", 1); }
