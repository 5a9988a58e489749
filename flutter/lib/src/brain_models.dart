import 'brain_exception.dart';

/// An adapter on the robot.
class BrainAdapter {
  const BrainAdapter({
    required this.id,
    required this.sha256,
    required this.slots,
    required this.passed,
    this.damaged = '',
  });

  factory BrainAdapter.fromJson(Map<String, Object?> json) => BrainAdapter(
    id: field<String>(json, 'id'),
    sha256: field<String>(json, 'sha256'),
    slots: [for (final Object? s in field<List<Object?>>(json, 'slots')) '$s'],
    passed: field<bool?>(json, 'passed'),
    damaged: optional<String>(json, 'damaged') ?? '',
  );

  final String id;
  final String sha256;

  /// Among current, candidate, previous.
  final List<String> slots;

  /// Its verdict; null while there is none.
  final bool? passed;

  /// What is wrong with its files; empty when nothing is.
  final String damaged;
}

/// The brain now.
class BrainStatus {
  const BrainStatus({
    required this.version,
    required this.baseSha256,
    required this.current,
    required this.candidate,
    required this.drivingEngine,
    required this.wordsEngine,
    required this.mode,
    required this.trainingPhase,
    required this.gatesOpen,
    required this.lastEvent,
    this.problem = '',
  });

  factory BrainStatus.fromJson(Map<String, Object?> json) {
    final engines = field<Map<String, Object?>>(json, 'engines');
    final control = field<Map<String, Object?>>(json, 'control');
    final training = field<Map<String, Object?>>(json, 'training');
    return BrainStatus(
      version: field<String>(json, 'version'),
      baseSha256: field<String>(json, 'base_sha256'),
      current: field<String>(json, 'current'),
      candidate: field<String>(json, 'candidate'),
      drivingEngine: field<String?>(engines, 'driving'),
      wordsEngine: field<String?>(engines, 'words'),
      mode: optional<String>(control, 'mode') ?? '',
      trainingPhase: optional<String>(training, 'phase') ?? '',
      gatesOpen: field<Map<String, Object?>>(json, 'gates')['open'] == true,
      lastEvent: field<int>(json, 'last_event'),
      problem: optional<String>(json, 'problem') ?? '',
    );
  }

  final String version;
  final String baseSha256;

  /// Id of the adapter in use, empty for the base alone.
  final String current;
  final String candidate;

  /// null: this base does not drive.
  final String? drivingEngine;

  /// null: this base has no words.
  final String? wordsEngine;

  /// Of the control process; empty while it does not run.
  final String mode;
  final String trainingPhase;
  final bool gatesOpen;
  final int lastEvent;

  /// Why the current adapter cannot be used; empty when nothing is wrong.
  final String problem;
}

/// A decision on a frame. It moves nothing.
class BrainDecision {
  const BrainDecision({
    required this.curvaturePerM,
    required this.atM,
    required this.speedMps,
    required this.inS,
    required this.adapterSha256,
    required this.decisionMs,
    required this.note,
  });

  factory BrainDecision.fromJson(Map<String, Object?> json) => BrainDecision(
    curvaturePerM: _numbers(json, 'curvature_per_m'),
    atM: _numbers(json, 'at_m'),
    speedMps: _numbers(json, 'speed_mps'),
    inS: _numbers(json, 'in_s'),
    adapterSha256: field<String>(json, 'adapter_sha256'),
    decisionMs: field<num>(json, 'decision_ms').toDouble(),
    note: field<String>(json, 'note'),
  );

  /// 1/m at the distances [atM].
  final List<double> curvaturePerM;
  final List<double> atM;

  /// m/s at the times [inS].
  final List<double> speedMps;
  final List<double> inS;
  final String adapterSha256;
  final double decisionMs;

  /// Why the current adapter could not be used; empty when it was.
  final String note;
}

List<double> _numbers(Map<String, Object?> json, String key) => [
  for (final Object? n in field<List<Object?>>(json, key))
    if (n is num)
      n.toDouble()
    else
      throw BrainException('$key holds $n, which is no number'),
];

/// One thing that was said.
class ChatTurn {
  const ChatTurn.user(this.content) : role = 'user';
  const ChatTurn.assistant(this.content) : role = 'assistant';

  final String role;
  final String content;

  Map<String, Object?> toJson() => {'role': role, 'content': content};
}
