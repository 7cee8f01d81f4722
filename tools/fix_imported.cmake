# SPDX-License-Identifier: Apache-2.0
# Given to CMake as CMAKE_PROJECT_INCLUDE when building against the ROS wheels of the Python package index.

# The wheels' exported targets carry include folders of the machine that built them; CMake refuses to
# generate while a target names a folder that does not exist. The folders that do exist here are enough.
function(pixelrefer_prune_imported)
  get_property(targets DIRECTORY PROPERTY IMPORTED_TARGETS)
  foreach(target IN LISTS targets)
    foreach(property INTERFACE_INCLUDE_DIRECTORIES INTERFACE_SYSTEM_INCLUDE_DIRECTORIES)
      get_target_property(folders ${target} ${property})
      if(NOT folders)
        continue()
      endif()
      set(kept "")
      foreach(folder IN LISTS folders)
        # Generator expressions are decided later; only plain absolute paths can be looked at now.
        if(NOT IS_ABSOLUTE "${folder}" OR EXISTS "${folder}")
          list(APPEND kept "${folder}")
        endif()
      endforeach()
      set_target_properties(${target} PROPERTIES ${property} "${kept}")
    endforeach()
  endforeach()
endfunction()

# With the virtual environment inside the source tree, NumPy's headers lie inside it too, and CMake refuses
# to export a target that names a folder of the source tree. They are needed only to build.
function(pixelrefer_hide_venv)
  set(target ${PROJECT_NAME}__rosidl_generator_py)
  if(NOT TARGET ${target})
    return()
  endif()
  get_target_property(folders ${target} INTERFACE_INCLUDE_DIRECTORIES)
  set(kept "")
  foreach(folder IN LISTS folders)
    string(FIND "${folder}" "${CMAKE_SOURCE_DIR}/" start)
    if(start EQUAL 0)
      set(folder "$<BUILD_INTERFACE:${folder}>")
    endif()
    list(APPEND kept "${folder}")
  endforeach()
  set_target_properties(${target} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES "${kept}")
endfunction()

# At the end of the project's own directory: every find_package has run, nothing is generated yet.
cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL pixelrefer_prune_imported)
cmake_language(DEFER DIRECTORY "${CMAKE_SOURCE_DIR}" CALL pixelrefer_hide_venv)
