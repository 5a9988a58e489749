import 'brain_exception.dart';

/// What an event is about. [unknown]: of a newer service.
enum EventKind {
  promotion,
  confirm,
  revert,
  rollback,
  gate,
  training,
  safety,
  unknown,
}

/// Something that happened to the brain.
class BrainEvent {
  const BrainEvent({
    required this.sequence,
    required this.kind,
    required this.at,
    required this.data,
  });

  factory BrainEvent.fromJson(Map<String, Object?> json) => BrainEvent(
    sequence: field<int>(json, 'sequence'),
    kind: EventKind.values.firstWhere(
      (EventKind k) => k.name == json['kind'],
      orElse: () => EventKind.unknown,
    ),
    at: _time(field<num>(json, 'at_unix_s')),
    data: field<Map<String, Object?>>(json, 'data'),
  );

  /// 1, 2, 3, ...: gaps can be seen.
  final int sequence;
  final EventKind kind;
  final DateTime at;
  final Map<String, Object?> data;

  /// Another adapter is in use from now on.
  bool get changesAdapter =>
      kind == EventKind.promotion ||
      kind == EventKind.revert ||
      kind == EventKind.rollback;

  /// Of a promotion, confirmation, revert or rollback: the adapter that drives
  /// then, empty for the base alone.
  String get versionId => optional<String>(data, 'version_id') ?? '';

  /// Of the same: its sha256, empty for the base alone.
  String get sha256 => optional<String>(data, 'sha256') ?? '';

  /// Of a gate event: the robot may learn.
  bool get open => optional<bool>(data, 'open') ?? false;

  /// Of a gate event: closed gates and why.
  Map<String, String> get closed => {
    for (final MapEntry<String, Object?> e
        in (optional<Map<String, Object?>>(data, 'closed') ?? const {}).entries)
      e.key: '${e.value}',
  };

  /// Of a training event: waiting, read, train, judge, promoted, ...
  String get phase => optional<String>(data, 'phase') ?? '';

  /// Of a safety event: the guards hold the robot.
  bool get stopped => optional<bool>(data, 'stopped') ?? false;

  /// Of a safety event: why.
  List<String> get reasons => [
    for (final Object? r
        in optional<List<Object?>>(data, 'reasons') ?? const [])
      '$r',
  ];
}

/// Numbers that are no time throw an Error in Dart: 1e999 is JSON.
DateTime _time(num seconds) {
  if (seconds.abs() > 8.64e12) throw BrainException('at_unix_s: $seconds is no time');
  return DateTime.fromMicrosecondsSinceEpoch(
    (seconds * 1e6).round(),
    isUtc: true,
  );
}
