import 'dart:async';
import 'dart:io';

import 'brain_client.dart';
import 'brain_event.dart';
import 'brain_exception.dart';
import 'brain_manifest.dart';

/// The adapter in use has changed.
class AdapterChange {
  const AdapterChange({required this.versionId, required this.manifest});

  /// Empty: the base alone.
  final String versionId;
  final BrainManifest manifest;
}

/// Tells of every change of the adapter in use, once.
///
/// Events of the service where it runs, from the last one seen after every reconnection; changes of the manifest file
/// where it does not. Both are always watched and tell apart by the adapter's id, so that nothing is lost between them.
class BrainListener {
  BrainListener(
    this.manifestPath, {
    this.debounce = const Duration(milliseconds: 200),
    this.longestPause = const Duration(seconds: 10),
  });

  final String manifestPath;
  final Duration debounce;
  final Duration longestPause;

  final StreamController<AdapterChange> _changes =
      StreamController<AdapterChange>.broadcast();
  final StreamController<BrainEvent> _events =
      StreamController<BrainEvent>.broadcast();
  StreamSubscription<FileSystemEvent>? _files;
  BrainClient? _client;
  Timer? _due;
  Timer? _rewatch;
  String? _told;
  int? _seen;
  bool _closed = false;

  /// Another adapter is in use.
  Stream<AdapterChange> get changes => _changes.stream;

  /// Everything that the service tells.
  Stream<BrainEvent> get events => _events.stream;

  /// Begins. What is in use now is no change.
  Future<void> start() async {
    final BrainManifest manifest = await BrainManifest.read(manifestPath);
    final String now = await _inUse(manifest);
    if (_closed) return;
    _told = now;
    _watch();
    _soon(); // it may have changed before the watch began
    unawaited(_follow());
  }

  Future<void> close() async {
    _closed = true;
    _due?.cancel();
    _rewatch?.cancel();
    _client?.close();
    await _files?.cancel();
    await _changes.close();
    await _events.close();
  }

  /// The folder: the file itself is replaced. A move into it is not always told, the touch after it is.
  void _watch() {
    try {
      _files = File(manifestPath).parent
          .watch(events: FileSystemEvent.create | FileSystemEvent.modify)
          .where((FileSystemEvent e) => e.path.endsWith('manifest.json'))
          .listen(
            (_) => _soon(),
            onError: (Object _) => _soon(),
            onDone: _watchAgain,
          );
    } on FileSystemException {
      _watchAgain();
    }
  }

  /// The folder went away, or cannot be watched: looked at now and then instead.
  void _watchAgain() {
    if (_closed) return;
    _rewatch = Timer(longestPause, () {
      _watch();
      _soon();
    });
  }

  Future<void> _follow() async {
    var pause = const Duration(milliseconds: 250);
    while (!_closed) {
      try {
        final BrainManifest manifest = await BrainManifest.read(manifestPath);
        final String? socket = manifest.serviceSocket;
        if (socket == null) return; // an older brain: the file is all there is
        if (_closed) return;
        final client = BrainClient(socket);
        _client = client;
        _seen ??= await _lastEvent(client);
        if (_closed) return; // close() has closed the client
        await for (final BrainEvent event in client.events(
          after: _seen,
          onGap: _soon,
          onReset: () {
            _seen = 0; // all that is kept follows, also to the next connection
            _soon();
          },
        )) {
          if (_closed) return;
          pause = const Duration(milliseconds: 250);
          _seen = event.sequence;
          _events.add(event);
          if (event.changesAdapter) _soon();
        }
      } on BrainException {
        // The service does not run; the file tells meanwhile.
      } on IOException {
        // It has ended in the middle of an answer.
      }
      _client?.close();
      if (_closed) return;
      await Future<void>.delayed(pause);
      pause = pause * 2 < longestPause ? pause * 2 : longestPause;
    }
  }

  /// Null where the service cannot say it: then events begin now.
  static Future<int?> _lastEvent(BrainClient client) async {
    try {
      return (await client.status()).lastEvent;
    } on BrainException catch (error) {
      if (error.status == null) rethrow;
      return null;
    }
  }

  void _soon() {
    if (_closed) return;
    _due?.cancel();
    _due = Timer(debounce, () => unawaited(_look()));
  }

  Future<void> _look() async {
    try {
      final BrainManifest manifest = await BrainManifest.read(manifestPath);
      final String now = await _inUse(manifest);
      if (_closed || now == _told) return;
      _told = now;
      _changes.add(AdapterChange(versionId: now, manifest: manifest));
    } on BrainException {
      _soon(); // it is being replaced this moment
    }
  }

  /// Id of the version that `adapters/current` points to, empty for the base alone.
  static Future<String> _inUse(BrainManifest manifest) async {
    try {
      final String path = await Link(manifest.adapterDir).target();
      return path.split('/').last;
    } on FileSystemException {
      return '';
    }
  }
}
