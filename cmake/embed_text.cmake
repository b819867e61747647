# Turns a text file into a C++ source that defines it as a string, so that a binary carried elsewhere needs no file beside it.
#   cmake -DINPUT=plan_book.txt -DOUTPUT=plan_book_text.cpp -DNAMESPACE=kd::cuda -DNAME=kPlanBookText -P embed_text.cmake
foreach(argument INPUT OUTPUT NAMESPACE NAME)
  if(NOT ${argument})
    message(FATAL_ERROR "embed_text.cmake: -D${argument}= is missing")
  endif()
endforeach()
file(READ "${INPUT}" text)
string(FIND "${text}" ")kd_text\"" end)
if(NOT end EQUAL -1)
  message(FATAL_ERROR "embed_text.cmake: ${INPUT} contains the end mark of its own literal")
endif()
get_filename_component(name "${INPUT}" NAME)
file(WRITE "${OUTPUT}" "// Generated from ${name} by cmake/embed_text.cmake.
#include <string_view>

namespace ${NAMESPACE} {
extern const std::string_view ${NAME};
const std::string_view ${NAME} = R\"kd_text(${text})kd_text\";
}  // namespace ${NAMESPACE}
")
