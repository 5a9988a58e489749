import 'dart:convert';

/// An error that a person can do something about.
class BrainException implements Exception {
  const BrainException(this.message, {this.remedy = '', this.status});

  /// The problem (RFC 9457) in an answer of the service, or the answer itself where it is none.
  factory BrainException.ofAnswer(int status, String body) {
    try {
      final Object? value = jsonDecode(body);
      if (value is Map<String, Object?>) {
        return BrainException(
          optional<String>(value, 'detail') ?? 'the service answered $status',
          remedy: optional<String>(value, 'remedy') ?? '',
          status: status,
        );
      }
    } on FormatException {
      // No JSON: told below.
    }
    return BrainException('the service answered $status', status: status);
  }

  final String message;

  /// What to do about it, or empty.
  final String remedy;

  /// HTTP status, where the service said it.
  final int? status;

  @override
  String toString() => remedy.isEmpty ? message : '$message ($remedy)';
}

/// The value of [key], or a [BrainException] that names it.
T field<T>(Map<String, Object?> json, String key) {
  final Object? value = json[key];
  if (value is T) return value;
  // JSON has one kind of number.
  if (0.0 is T && value is int) return value.toDouble() as T;
  throw BrainException(
    '$key is ${value is String ? jsonEncode(value) : value}, not a $T',
  );
}

/// The value of [key] where it is there and a [T], else null.
T? optional<T extends Object>(Map<String, Object?> json, String key) {
  final Object? value = json[key];
  return value is T ? value : null;
}

/// A JSON object, or a [BrainException] that says what it is of.
Map<String, Object?> jsonObject(String text, String what) {
  try {
    final Object? value = jsonDecode(text);
    if (value is Map<String, Object?>) return value;
  } on FormatException catch (error) {
    throw BrainException('$what is no JSON: ${error.message}');
  }
  throw BrainException('$what holds no JSON object');
}
