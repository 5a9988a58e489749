import 'dart:convert';
import 'dart:io';

/// The files that the Python tests hold the service to.
String golden(String name) => File('../tests/golden/$name').readAsStringSync();

Map<String, Object?> goldenJson(String name) =>
    jsonDecode(golden(name)) as Map<String, Object?>;
