# frozen_string_literal: true

# What vmprov does differently from vagrant-libvirt: a Vagrant plugin that lives beside the Vagrantfile.
#
# A machine counts as up at power-on: nothing waits for an address or for SSH, nothing looks into the guest.
# vmprov itself judges whether a guest is ready.

require 'rexml/document'
require 'vagrant-libvirt/action'

module Vmprov
  # The settings under `vmprov` of a machine.
  #
  #   fragment  -- path of an XML file whose parts are spliced into the domain's definition
  #   disk_size -- size in bytes of the disk that is made from the box
  #   screen_password -- path of the file with the password of the screen, or ""
  class Config < Vagrant.plugin('2', :config)
    attr_accessor :fragment, :disk_size, :screen_password
  end

  # Puts the parts of one definition into another.
  module Splice
    MARK = 'urn:vmprov:1'
    ADDED = %w[devices metadata].freeze
    MERGED = %w[os features].freeze

    # The domain's definition with the fragment's parts. Devices and metadata are added to what is there, except that
    # serial ports replace the one of vagrant-libvirt; of <os> and <features>, each child replaces those of its name;
    # everything else is replaced as a whole by what has its name and its type.
    def self.into(definition, fragment, password)
      domain = REXML::Document.new(definition)
      return definition if spliced?(domain)

      REXML::Document.new(fragment).root.elements.each { |part| add(domain.root, part) }
      domain.root.elements.each('devices/graphics') { |screen| screen.add_attribute('passwd', password) } if password
      domain.to_s
    end

    def self.spliced?(domain)
      domain.root.elements.to_a('metadata/*').any? { |element| element.namespace == MARK }
    end

    def self.add(root, part)
      same = root.elements.to_a(part.name).select { |own| own.attributes['type'] == part.attributes['type'] }
      own = same.first
      unless own && (ADDED + MERGED).include?(part.name)
        same.each(&:remove)
        root.add_element(part.deep_clone)
        return
      end
      names = part.elements.map(&:name)
      names = names.include?('serial') ? %w[serial console] : [] unless MERGED.include?(part.name)
      names.uniq.each { |name| own.elements.delete_all(name) }
      part.elements.each { |child| own.add_element(child.deep_clone) }
    end
    private_class_method :spliced?, :add
  end

  # Keeps the machine out of Vagrant's index of machines. A name on the command line is first compared with the
  # beginnings of the ids in there, so a VM called "db" could be taken for another one's "db4f...".
  class StayOutOfIndex
    FILE = 'index_uuid'

    def initialize(app, _env)
      @app = app
    end

    def call(env)
      env[:machine].data_dir.join(FILE).write('vmprov')
      @app.call(env)
    end
  end

  # Gives the disk made from a box its exact size; vagrant-libvirt counts in whole GiB.
  class ExactDiskSize
    def initialize(app, _env)
      @app = app
    end

    def call(env)
      size = env[:machine].config.vmprov.disk_size
      env[:box_volumes][0][:virtual_size] = ByteNumber.new(size) if size
      @app.call(env)
    end
  end

  # Completes the domain's definition and starts it, in place of everything that would come after.
  class PowerOn
    def initialize(_app, _env); end

    def call(env)
      machine = env[:machine]
      client = machine.provider.driver.connection.client
      definition = client.lookup_domain_by_uuid(machine.id).xml_desc(Libvirt::Domain::XML_SECURE)
      definition = Splice.into(definition, File.read(machine.config.vmprov.fragment), password(machine.config.vmprov))
      domain = client.define_domain_xml(definition)
      machine.data_dir.join(StayOutOfIndex::FILE).delete
      env[:ui].info(I18n.t('vagrant_libvirt.starting_domain'))
      domain.create
      # From here on an interruption must not destroy it.
      env['vagrant-libvirt.complete']&.call
    rescue Libvirt::Error => e
      raise VagrantPlugins::ProviderLibvirt::Errors::DomainStartError, error_message: e.libvirt_message || e.message
    end

    private

    def password(config)
      File.read(config.screen_password).strip unless config.screen_password.to_s.empty?
    end
  end

  # Tells Vagrant about the above.
  class Plugin < Vagrant.plugin('2')
    name 'vmprov'

    config(:vmprov) { Config }

    action_hook(:vmprov, :machine_action_up) do |hook|
      actions = VagrantPlugins::ProviderLibvirt::Action
      hook.before(actions::CreateDomainVolume, ExactDiskSize)
      hook.before(actions::CreateDomain, StayOutOfIndex)
      hook.before(actions::StartDomain, PowerOn)
    end
  end
end
