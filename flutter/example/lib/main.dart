import 'dart:async';

import 'package:continuonbrain/continuonbrain.dart';
import 'package:flutter/material.dart';
import 'package:flutter/services.dart';

const String _manifest = String.fromEnvironment(
  'MANIFEST',
  defaultValue: '/opt/continuonos/brain/model/manifest.json',
);

void main() => runApp(const BrainApp());

/// Talk to the brain; see what it answers with and what happens to it.
class BrainApp extends StatelessWidget {
  const BrainApp({super.key});

  @override
  Widget build(BuildContext context) => MaterialApp(
    title: 'continuonbrain',
    theme: ThemeData(colorSchemeSeed: Colors.teal),
    home: const TalkPage(),
  );
}

class TalkPage extends StatefulWidget {
  const TalkPage({super.key});

  @override
  State<TalkPage> createState() => _TalkPageState();
}

class _TalkPageState extends State<TalkPage> {
  final BrainListener _listener = BrainListener(_manifest);
  final GemmaChannel _channel = const GemmaChannel();
  final TextEditingController _input = TextEditingController();
  final List<ChatTurn> _turns = [];
  BrainRuntime? _runtime;
  String _said = '';
  String _happened = '';
  String _trouble = '';

  @override
  void initState() {
    super.initState();
    unawaited(_open());
  }

  Future<void> _open() async {
    try {
      await _listener.start();
      _listener.changes.listen((AdapterChange change) async {
        await _runtime?.reload(change);
        if (!mounted) return;
        setState(
          () => _happened = change.versionId.isEmpty
              ? 'the base answers alone'
              : 'adapter ${change.versionId} is in use',
        );
        try {
          await _channel.reloadAdapters(change);
        } on MissingPluginException {
          // This example has no native side.
        }
      });
      final manifest = await BrainManifest.read(_manifest);
      final runtime = await openRuntime(manifest);
      if (mounted) setState(() => _runtime = runtime);
    } on BrainException catch (error) {
      if (mounted) setState(() => _trouble = '$error');
    }
  }

  Future<void> _ask() async {
    final BrainRuntime? runtime = _runtime;
    final String text = _input.text.trim();
    if (runtime == null || text.isEmpty) return;
    _input.clear();
    setState(() {
      _turns.add(ChatTurn.user(text));
      _said = '';
      _trouble = '';
    });
    try {
      await for (final String piece in runtime.answer(_turns)) {
        if (!mounted) return;
        setState(() => _said += piece);
      }
      if (!mounted) return;
      if (_said.isEmpty) throw const BrainException('there was no answer');
      setState(() {
        _turns.add(ChatTurn.assistant(_said));
        _said = '';
        if (runtime is ServiceRuntime) _trouble = runtime.note;
      });
    } on BrainException catch (error) {
      if (!mounted) return;
      setState(() {
        // Turns alternate: what was not answered is asked anew.
        _turns.removeLast();
        _said = '';
        _trouble = '$error';
      });
    }
  }

  @override
  void dispose() {
    _input.dispose();
    unawaited(_listener.close());
    unawaited(_runtime?.close());
    super.dispose();
  }

  String get _capability => switch (_runtime?.capability) {
    BrainCapability.liveAdapter => 'answers with what the robot has learned',
    BrainCapability.mergedAdapter =>
      'answers with what it had learned at the export',
    BrainCapability.baseAlone => 'answers without what the robot has learned',
    null => 'looking for a brain',
  };

  @override
  Widget build(BuildContext context) => Scaffold(
    appBar: AppBar(
      title: const Text('continuonbrain'),
      bottom: PreferredSize(
        preferredSize: const Size.fromHeight(24),
        child: Text(_capability),
      ),
    ),
    body: Padding(
      padding: const EdgeInsets.all(16),
      child: Column(
        children: [
          if (_happened.isNotEmpty) Text(_happened),
          if (_trouble.isNotEmpty)
            Text(_trouble, style: const TextStyle(color: Colors.red)),
          Expanded(
            child: ListView(
              children: [
                for (final ChatTurn turn in _turns)
                  ListTile(title: Text(turn.content), subtitle: Text(turn.role)),
                if (_said.isNotEmpty) ListTile(title: Text(_said)),
              ],
            ),
          ),
          TextField(
            controller: _input,
            decoration: const InputDecoration(labelText: 'Say something'),
            onSubmitted: (_) => unawaited(_ask()),
          ),
        ],
      ),
    ),
  );
}
