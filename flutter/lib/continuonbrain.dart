/// A robot's brain in a Flutter app: what it has learned, told as it happens, and answers with it.
library;

export 'src/brain_client.dart';
export 'src/brain_event.dart';
export 'src/brain_exception.dart';
export 'src/brain_listener.dart';
export 'src/brain_manifest.dart';
export 'src/brain_models.dart';
export 'src/brain_runtime.dart';
export 'src/gemma_channel.dart';
export 'src/server_sent_events.dart';
